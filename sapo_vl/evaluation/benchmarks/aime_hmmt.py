"""AIME 2024/2025 and HMMT February 2024/2025, text only; layout and prompts of eth-sri/matharena.

Prompt: the problem and the `instruction` of the contest's config.yaml. Extraction: the last box.
AIME answers are whole numbers and compared as such; HMMT answers as mathematics, lists in any
order. The site reports the mean over four runs: `--samples 4`.

Six problems of AIME 2024 have a figure, which stays in the text as Asymptote code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.sources import aime_hmmt
from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import training_verifier
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    from_verdict,
)
from sapo_vl.evaluation.benchmarks.rows import integer_gold, single_gold, whole
from sapo_vl.rewards.parsing.extract import last_box
from sapo_vl.rewards.verifiers.count import whole_number
from sapo_vl.schema import Sample


def prompt(sample: Sample) -> str:
    """Return the instruction of the contest's config.yaml and the problem."""
    published: Published = sample.metadata["published"]
    instruction = published["instruction"]
    if instruction is None:
        raise DataError(f"{sample.id}: the contest's folder has no config.yaml with an instruction")
    unescaped = instruction.replace("{{", "{").replace("}}", "}")  # it is a format string
    return f"{unescaped}\n\n{published['question']}"


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the inside of the last box."""
    box = last_box(response.text)
    return ExtractedAnswer(box.answer, box.reason)


def judge_integer(response: Response, value: Any) -> Judgement:
    """Compare as integers: published answers have leading zeros."""
    number = whole_number(str(value)) if value else None
    expected = whole(str(response.answer))
    return Judgement(number is not None and number == expected, f"{value!r} against {expected}")


def judge_maths(response: Response, value: Any) -> Judgement:
    """Compare as mathematics."""
    if not value:
        return Judgement(False, "no box")
    return from_verdict(training_verifier.equal(response, str(value)))


def _benchmark(
    name: str, title: str, contests: Sequence[str], judge: Callable[[Response, Any], Judgement]
) -> Benchmark:
    kind = name[:4]  # the folder of the contests: aime or hmmt
    return Benchmark(
        name=name,
        title=title,
        rows=partial(aime_hmmt.rows, contests=contests, text_only=True),
        prompt=prompt,
        extract=extract,
        judge=judge,
        check=integer_gold if judge is judge_integer else single_gold,
        files=tuple(f"data/{kind}/{contest}/answers.csv" for contest in contests),
        folder="aime_hmmt",
        tables=("contest",),
    )


AIME24, AIME25 = (
    _benchmark(f"aime{y}", f"AIME 20{y}", [f"aime_20{y}_I", f"aime_20{y}_II"], judge_integer)
    for y in (24, 25)
)
HMMT24, HMMT25 = (
    _benchmark(f"hmmt{y}", f"HMMT February 20{y}", [f"hmmt_feb_20{y}"], judge_maths)
    for y in (24, 25)
)
