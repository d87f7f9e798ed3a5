"""GeoQA as R1-V evaluates it (Deep-Agent/R1-V, src/eval): 754 test problems, answers typed.

Prompt: the question and R1-V's tags. Judged by math-verify: `verify(parse(response),
parse(gold))`; the published labels are reproduced with math-verify 0.9.0 (docs/evaluation.md).

Oddities kept: the whole response is parsed, so a number of the reasoning may be taken, and a number
that stands right between the tags (`<answer>41</answer>`) is not even seen; units on the gold
("140°", "8cm") are dropped by math-verify's normalisation. Stricter and beside it: `verified`, the
answer that the training verifier extracts, compared with it.

    original layout: SOURCE/r1v_prompts (or src/eval/prompts)/geoqa_test_prompts.jsonl, images as
                     named there
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
from sapo_vl.schema import IMAGE_MARK, Outcome

PROMPT = (
    "{} Output the thinking process in <think> </think> and final answer (number) in <answer> "
    "</answer> tags."
)
_FILES = ("*prompts/geoqa_test_prompts.jsonl", "src/*/*prompts/geoqa_test_prompts.jsonl")


def problems(source: Path) -> Iterator[Problem]:
    """Yield the prompts' file."""
    folder = sources.find(source, "geoqa", _FILES)
    file = next(path for pattern in _FILES for path in folder.glob(pattern))
    for i, (_, row) in enumerate(sources.read_jsonl(file)):
        image = sources.picture(folder, row["image_path"], f"geoqa {i}")
        yield Problem(
            id=str(i),
            prompt=IMAGE_MARK + PROMPT.format(row["question"]),
            images=(image,),
            gold=row["ground_truth"],
            question=row["question"],
            answer_type="latex_or_number",
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the whole response: math-verify finds the answer itself."""
    return Extraction(row.text or None, is_response=True)


def judge(row: Row, value: Any) -> Judgement:
    """Ask math-verify."""
    if not value:
        return Judgement(False, "empty response")
    verdict = training_verifier.math_verify(row, str(value))
    mine = training_verifier.answer(row.text)
    strict = training_verifier.equal(row, mine).outcome is Outcome.CORRECT if mine else False
    return from_verdict(verdict, verified=strict)


BENCHMARK = Benchmark("geoqa", "GeoQA (R1-V)", problems, extract, judge)
