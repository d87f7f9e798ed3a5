"""MMMU-Pro (Yue et al., 2409.02813): 1,730 problems, up to ten options; official rules.

Two configurations: standard (images in the text) and vision (the question is a screenshot).
Prompt: the repository's, with a chain of thought. Extraction: the text after the last "Answer:" if
it contains the letter of exactly one choice, else as MMMU.

Oddities kept: those of mmmu_answer.py; a capital letter anywhere after "Answer:" counts. Stricter
rule: `no_random`, by which a random choice is wrong.
"""

from __future__ import annotations

import random
from typing import Any

from sapo_vl.data.readers.text import MarkedText
from sapo_vl.data.sources import mmmu_pro
from sapo_vl.evaluation.benchmarks import mmmu_answer
from sapo_vl.evaluation.benchmarks.mmmu import choices_prompt
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement, Response
from sapo_vl.evaluation.benchmarks.rows import letter_gold, require
from sapo_vl.schema import IMAGE_MARK, Sample

LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without "
    "quotes) where LETTER is one of options. Think step by step before answering."
)
STANDARD = f"Answer the preceding multiple choice question. {LAST_LINE}"
VISION = f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE}"
_FORMS = ("({})", "{} ", "{}.")


def prompt(sample: Sample) -> str | MarkedText:
    """Return the repository's chain-of-thought prompt of the problem's configuration."""
    if sample.metadata["published"]["variant"] == "vision":
        return f"{IMAGE_MARK}\n{VISION}"
    return choices_prompt(sample, STANDARD)


def check(response: Response) -> Response:
    """Require the choices; the gold is a letter."""
    require(response, "choices")
    return letter_gold(response)


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return a letter."""
    _, marker, tail = response.text.rpartition("Answer:")
    letters = [letter for letter in response.choices if marker and letter in tail.strip()]
    if len(letters) == 1:
        return ExtractedAnswer(letters[0])
    return mmmu_answer.choice(response, draw, _FORMS)


def judge(response: Response, value: Any) -> Judgement:
    """Compare a letter with the answer's letter."""
    return Judgement(value == response.answer, f"{value!r} against {response.answer!r}")


BENCHMARK = Benchmark(
    name="mmmu_pro",
    title="MMMU-Pro",
    rows=mmmu_pro.rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("standard*10*/*.parquet", "vision/*.parquet"),
    hub="MMMU/MMMU_Pro",
    tables=("config", "subject", "topic_difficulty"),
)
