"""MMK12 (MM-Eureka, 2503.07365): 500 test problems of school mathematics and science.

Prompt: the question and a box. Extraction: the last box, else the final answer in words. Judged
as mathematics by the training verifier; beside it `math_verify`, which MM-Eureka calls on the
whole response.

    original layout: SOURCE/eval/k12/k12.json, SOURCE/eval/k12/images/*.png
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import sources, training_verifier
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    from_verdict,
)
from sapo_vl.rewards.parsing.extract import final_answer, last_box
from sapo_vl.schema import IMAGE_MARK, Outcome

SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_FILE = "eval/k12/k12.json"


def problems(source: Path) -> Iterator[Problem]:
    """Yield the records that are there."""
    folder = sources.find(source, "mmk12", [_FILE])
    for row in sources.read_json(folder / _FILE):
        image = sources.picture(folder / "eval" / "k12", row["image_path"], f"mmk12 {row['id']}")
        yield Problem(
            id=row["id"],
            prompt=f"{IMAGE_MARK}{row['question']}{SUFFIX}",
            images=(image,),
            gold=row["answer"],
            question=row["question"],
        )


def extract_box(row: Row) -> Extraction:
    """Return the inside of the last box; without one, the final answer as in training."""
    box = last_box(row.text)
    if box.marked:
        return Extraction(box.answer, box.reason)
    found = final_answer(row.text)
    return Extraction(found.answer, found.reason)


def judge_maths(row: Row, value: Any) -> Judgement:
    """Compare with the gold as mathematics, and let math-verify read the response."""
    if not value:
        return Judgement(False, "no answer")
    other = training_verifier.math_verify(row, row.text or str(value)).outcome is Outcome.CORRECT
    return from_verdict(training_verifier.equal(row, str(value)), math_verify=other)


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the inside of the last box, else the final answer."""
    return extract_box(row)


def judge(row: Row, value: Any) -> Judgement:
    """Compare as mathematics."""
    return judge_maths(row, value)


BENCHMARK = Benchmark("mmk12", "MMK12", problems, extract, judge)
