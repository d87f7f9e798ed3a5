"""LogicVista (Xiao et al., 2407.04973): 448 multiple-choice puzzles; Yijia-Xiao/LogicVista.

Extraction: an LLM lists the letters ("ZZZZZ" for none); without an endpoint `rule_extraction.py` reads them,
and the result says so. The sorted letters, in lower case, must be the gold's.

Oddities kept: one gold is "3" and one is empty, so those two go by the same comparison. Stricter
and beside it: `is_gold_usable`, which counts a row wrong where the gold is no letter.

    original layout: SOURCE/data/dataset.json, SOURCE/data/images/v1_0.png
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import rule_extraction, sources
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, Extraction, Judgement, Problem, Row
from sapo_vl.schema import IMAGE_MARK

NONE = "ZZZZZ"
_FILE = "data/dataset.json"


def problems(source: Path) -> Iterator[Problem]:
    """Yield all problems whose records are there."""
    folder = sources.find(source, "logicvista", [_FILE])
    for name, row in sources.read_json(folder / _FILE).items():
        image = sources.picture(folder / "data" / "images", row["imagename"], f"logicvista {name}")
        yield Problem(
            id=name,
            prompt=IMAGE_MARK + row["question"],
            images=(image,),
            gold=row["answer"],
            question=row["question"],
            question_type="multi_choice",
            answer_type="letters",
            meta={
                "skill": row["skill"],
                "capability": row["broad_capability"],
                "specific_capability": row["specific_capability"],
            },
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the letters that the response claims, by our rule."""
    return Extraction(rule_extraction.letters(row) or [NONE], rule_extraction.IN_PLACE)


def judge(row: Row, value: Any) -> Judgement:
    """Compare the sorted letters."""
    found = _letters(value)
    gold = _letters(str(row.gold))
    usable = bool(gold) and all(len(c) == 1 and c.isalpha() for c in gold)
    return Judgement(
        found == gold, f"{found} against {gold}", {"is_gold_usable": usable and found == gold}
    )


def _letters(value: Any) -> list[str]:
    """Return lower-case letters in order, from a list or from text such as "A, C"."""
    if isinstance(value, str):
        value = re.split(r"[,\s]+", value) if value.strip() else [value]
    return sorted(str(item).strip().lower() for item in value or [])


BENCHMARK = Benchmark(
    "logicvista", "LogicVista", problems, extract, judge,
    tables=("skill", "capability", "specific_capability"), llm=True,
)  # fmt: skip
