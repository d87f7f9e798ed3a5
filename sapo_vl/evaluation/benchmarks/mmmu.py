"""MMMU (Yue et al., 2311.16502): 900 validation problems of college subjects; official rules.

Prompt: the question, the choices as `(A) ...`, and the repository's closing sentence. Oddities:
mmmu_answer.py. Stricter rule: `no_random`, by which a random choice is wrong.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.text import MarkedText, choices_by_letter
from sapo_vl.data.sources import mmmu
from sapo_vl.evaluation.benchmarks import mmmu_answer
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    mark_images,
)
from sapo_vl.evaluation.benchmarks.rows import letter_gold, require
from sapo_vl.schema import Sample

MULTIPLE = "Answer with the option's letter from the given choices directly."
OPEN = "Answer the question using a single word or phrase."
_LETTER_FORMS = ("({})", " {} ")


def prompt(sample: Sample) -> MarkedText:
    """Return question, choices and the repository's closing sentence."""
    published: Published = sample.metadata["published"]
    return choices_prompt(sample, MULTIPLE if published["choices"] else OPEN)


def choices_prompt(sample: Sample, closing: str) -> MarkedText:
    """Return the question with its images, the choices, and the closing sentence."""
    published: Published = sample.metadata["published"]
    choices = choices_by_letter(published["choices"])
    listed = "".join(f"({letter}) {text}\n" for letter, text in choices.items())
    return mark_images(f"{published['question']}\n{listed}\n{closing}", sample)


def check(response: Response) -> Response:
    """Require the choices of a multiple-choice row; its gold is a letter."""
    if "mult" in (response.question_type or ""):
        require(response, "choices")
    return letter_gold(response) if response.choices else response


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return a letter, or the list of predictions of an open answer."""
    if response.choices:
        return mmmu_answer.choice(response, draw, _LETTER_FORMS)
    return ExtractedAnswer(mmmu_answer.open_answers(response.text))


def judge(response: Response, value: Any) -> Judgement:
    """Compare a letter with the answer's letter, predictions with the accepted answers."""
    if response.choices:
        return Judgement(value == response.answer, f"{value!r} against {response.answer!r}")
    if isinstance(value, str):
        value = mmmu_answer.normalise(value)
    correct = mmmu_answer.open_correct(response.answer, value or [])
    return Judgement(correct, f"{str(value)[:120]} against {response.answer!r}")


BENCHMARK = Benchmark(
    name="mmmu",
    title="MMMU (validation)",
    rows=partial(mmmu.rows, splits=("validation",)),
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("**/validation*.parquet",),
    hub="MMMU/MMMU",
    tables=("category", "question_type", "topic_difficulty"),
)
