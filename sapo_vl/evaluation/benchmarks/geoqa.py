"""GeoQA as R1-V evaluates it (Deep-Agent/R1-V, src/eval): 754 test problems, answers typed.

Prompt: the question and R1-V's tags. Judged by math-verify: `verify(parse(response),
parse(answer))`, with math-verify 0.9.0 (docs/evaluation.md).

Oddity kept: math-verify's normalisation drops units of the answer ("140°", "8cm"). R1-V's own code
parses the whole response, so that a number of the thinking may be taken; and math-verify does not
see a number directly between tags (`<answer>41</answer>`), so that its published verdicts rest on
the thinking. Here what follows the thinking is parsed, with the tags as blanks; R1-V's reading is
the rule `whole_response`, which reproduces the published labels. Stricter rule: `verified`, the
training verifier's extraction and comparison.
"""

from __future__ import annotations

import random
import re
from typing import Any

from sapo_vl.data.sources import geoqa, superclevr
from sapo_vl.evaluation.benchmarks import training_verifier
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    from_verdict,
)
from sapo_vl.evaluation.benchmarks.rows import single_gold
from sapo_vl.schema import IMAGE_MARK, Outcome, Sample

_TAG = re.compile(r"</?answer>")
PROMPT = (
    "{} Output the thinking process in <think> </think> and final answer (number) in <answer> "
    "</answer> tags."
)


def prompt(sample: Sample) -> str:
    """Return the question and R1-V's request for tags."""
    return IMAGE_MARK + PROMPT.format(sample.metadata["published"]["question"])


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return what follows the thinking, from which math-verify extracts the answer."""
    return ExtractedAnswer(_TAG.sub(" ", response.text).strip() or None, is_response=True)


def judge(response: Response, value: Any) -> Judgement:
    """Judge by math-verify."""
    if not value:
        return Judgement(False, "empty response")
    verdict = training_verifier.math_verify(response, str(value))
    whole = verdict
    if response.content and response.content != value:
        whole = training_verifier.math_verify(response, response.content)
    answer = training_verifier.answer(response.text)
    is_equal = False
    if answer:
        is_equal = training_verifier.equal(response, answer).outcome is Outcome.CORRECT
    return from_verdict(verdict, verified=is_equal, whole_response=whole.outcome is Outcome.CORRECT)


BENCHMARK = Benchmark(
    name="geoqa",
    title="GeoQA (R1-V)",
    rows=geoqa.r1v_rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=single_gold,
    files=tuple(f"{folder}/{geoqa.TEST_FILE}" for folder in superclevr.R1V_FOLDERS),
)
