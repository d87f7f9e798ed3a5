"""MMK12 (MM-Eureka, 2503.07365): 500 test problems of school mathematics and science.

Prompt: the question and a box. Extraction: the last box, else the final answer in words. Judged
as mathematics by the training verifier. Other rule: `math_verify`, which MM-Eureka calls on the
whole response.
"""

from __future__ import annotations

import random
from typing import Any

from sapo_vl.data.sources import mmk12
from sapo_vl.evaluation.benchmarks import training_verifier
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    from_verdict,
)
from sapo_vl.evaluation.benchmarks.rows import letter_gold, single_gold
from sapo_vl.rewards.parsing.extract import final_answer, last_box
from sapo_vl.schema import IMAGE_MARK, Outcome, Sample

SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def prompt(sample: Sample) -> str:
    """Return the question and the request for a box."""
    return f"{IMAGE_MARK}{sample.metadata['published']['question']}{SUFFIX}"


def check(response: Response) -> Response:
    """Read a gold that is the letter of a choice; the value of a choice is a gold as it is."""
    response = single_gold(response)
    if response.unscorable or response.answer in response.choices.values():
        return response
    is_letter = len(response.answer.strip(" ().")) == 1 and not response.answer.strip().isdigit()
    return letter_gold(response) if response.choices and is_letter else response


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the content of the last box; without one, the final answer as in training."""
    box = last_box(response.text)
    if box.marked:
        return ExtractedAnswer(box.answer, box.reason)
    answer = final_answer(response.text)
    return ExtractedAnswer(answer.answer, answer.reason)


def judge(response: Response, value: Any) -> Judgement:
    """Compare with the answer as mathematics; math-verify reads the whole response."""
    if not value:
        return Judgement(False, "no answer")
    other = (
        training_verifier.math_verify(response, response.text or str(value)).outcome
        is Outcome.CORRECT
    )
    return from_verdict(training_verifier.equal(response, str(value)), math_verify=other)


BENCHMARK = Benchmark(
    name="mmk12",
    title="MMK12",
    rows=mmk12.rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("eval/k12/k12.json",),
)
