"""TabMWP (Lu et al., 2209.14610): tables and word problems; rules of lupantech/PromptPG.

Prompt: the table as a picture, the question with unit or options, a box for the answer (the
repository prompts text models with the table in words). Extraction: regular expressions, the first
that matches; options by letter, else by shared words. Both sides are normalised and compared.

Oddities kept: a letter beyond the options draws one at random (`is_random`); a letter with any
sign and a blank behind it counts, whatever follows. Unit and choices decide the rule, so a row
without its question type has no verdict. Stricter and beside it: `no_random`.

    original layout: SOURCE/data/tabmwp/problems_test1k.json, SOURCE/data/tabmwp/tables/16.png
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import sources, tabmwp_answer
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    lettered,
)
from sapo_vl.schema import IMAGE_MARK

_FILE = "data/tabmwp/problems_test1k.json"


def problems(source: Path) -> Iterator[Problem]:
    """Yield test1k."""
    folder = sources.find(source, "tabmwp", [_FILE])
    for pid, row in sources.read_json(folder / _FILE).items():
        unit, choices = row["unit"], row["choices"]
        parts = [row["question"]]
        if unit:
            parts.append(f"(Unit: {unit})")
        options = lettered(choices, f"tabmwp {pid}")
        parts += [f"({letter}) {text}" for letter, text in options.items()]
        parts.append("Put your final answer within \\boxed{}.")
        yield Problem(
            id=pid,
            prompt=IMAGE_MARK + "\n".join(parts),
            images=(sources.picture(folder, f"data/tabmwp/tables/{pid}.png", f"tabmwp {pid}"),),
            gold=row["answer"],
            options=options,
            question=row["question"],
            question_type=row["ques_type"],
            answer_type=row["ans_type"],
            unit=unit,
            meta={"grade": row["grade"]},
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Apply the official expressions to the inside of the last box, else to the whole response."""
    if row.question_type is None:
        return Extraction(None, "unit and choices of the problem are not known")
    options = list(row.options.values())
    return tabmwp_answer.find(tabmwp_answer.boxed(row.text), options, draw)


def judge(row: Row, value: Any) -> Judgement:
    """Normalise both sides and compare them in lower case."""
    if row.question_type is None:
        return Judgement(None, "unit and choices of the problem are not known")
    if value is None:
        return Judgement(False, "no answer")
    found = tabmwp_answer.normalise(str(value), row.unit)
    gold = tabmwp_answer.normalise(str(row.gold), row.unit)
    return Judgement(found.lower() == gold.lower(), f"{found[:80]!r} against {gold!r}")


BENCHMARK = Benchmark(
    "tabmwp", "TabMWP (test1k)", problems, extract, judge,
    tables=("question_type", "answer_type", "grade"),
)  # fmt: skip
