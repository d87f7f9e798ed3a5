"""LogicVista (Xiao et al., 2407.04973): 448 multiple-choice puzzles; Yijia-Xiao/LogicVista.

Extraction: an LLM lists the letters ("ZZZZZ" for none); without an endpoint
`rule_extraction.py` reads them, and the result says so. The sorted letters, in lower case, must be
the answer's.

Oddities kept: one gold is "3" and one is empty, so those two go by the same comparison. Stricter
and beside it: `is_gold_usable`, which counts a response wrong where the gold is no letter.
"""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

from sapo_vl.data.sources import logicvista
from sapo_vl.evaluation.benchmarks import rule_extraction
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement, Response
from sapo_vl.schema import IMAGE_MARK, Sample

NONE = "ZZZZZ"


def prompt(sample: Sample) -> str:
    """Return the question behind the image."""
    return IMAGE_MARK + sample.metadata["published"]["question"]


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the letters that the response claims, by our rule."""
    return ExtractedAnswer(rule_extraction.letters(response) or [NONE], rule_extraction.IN_PLACE)


def judge(response: Response, value: Any) -> Judgement:
    """Compare the sorted letters."""
    found = _letters(value)
    gold = _letters(str(response.answer))
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
    name="logicvista",
    title="LogicVista",
    rows=partial(logicvista.rows, unanswered=True),
    prompt=prompt,
    extract=extract,
    judge=judge,
    files=("data/dataset.json",),
    tables=("skill", "capability", "specific_capability"),
    llm=True,
)
