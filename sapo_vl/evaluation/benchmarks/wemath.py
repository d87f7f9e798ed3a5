"""We-Math (Qiao et al., 2407.01284): 1,740 questions in 525 groups; protocol of We-Math/We-Math.

Prompt: question, choices and the format `<Thought process>: .. <Answer>: ..`. Extraction: the first
character after the last "Answer" if it is one of A to H. Metrics (wemath_metrics.py): accuracy by
number of knowledge points, and the four-dimensional IK, IG, CM, RM, strict and loose.

Oddity kept: no other form of naming a letter counts. Looser rule: `any_form`, the letter that the
response claims in any form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.sources import wemath
from sapo_vl.evaluation.benchmarks import rule_extraction, wemath_metrics
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    ScoredResponse,
)
from sapo_vl.evaluation.benchmarks.rows import letter_gold
from sapo_vl.schema import IMAGE_MARK, Sample

PROMPT = (
    "Now, we require you to solve a multiple-choice math question. Please briefly describe your "
    "thought process and provide the final answer(option).\nQuestion: {}\nOption: {}\nRegarding "
    "the format, please answer following the template below, and be sure to include two <> "
    "symbols:\n<Thought process>: <<your thought process>> <Answer>: <<your option>>"
)


def prompt(sample: Sample) -> str:
    """Return the question, the choices as the data set lists them, and the format."""
    published: Published = sample.metadata["published"]
    return IMAGE_MARK + PROMPT.format(published["question"], published["choice_text"])


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the official letter."""
    tail = re.sub(r"[><:.]", "", response.text.split("Answer")[-1].strip()).strip()
    return ExtractedAnswer(tail[0] if tail and tail[0] in "ABCDEFGH" else None)


def judge(response: Response, value: Any) -> Judgement:
    """Compare with the answer's letter."""
    correct = value == response.answer
    anywhere = correct or rule_extraction.letters(response) == [response.answer]
    return Judgement(correct, f"{value!r} against {response.answer!r}", {"any_form": anywhere})


def aggregate(scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return S1 to S3 and the four-dimensional metrics; every sample has groups of its own."""
    rows = [
        (
            f"{i.response.problem_id}@{i.response.sample}",
            str(i.response.meta.get("key", i.response.variant)),
            bool(i.correct),
        )
        for i in scored
    ]
    return wemath_metrics.summary(rows)


BENCHMARK = Benchmark(
    name="wemath",
    title="We-Math (testmini)",
    rows=wemath.rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=partial(letter_gold, letters="ABCDEFGH"),
    files=("data/testmini.json", "**/testmini*.parquet"),
    hub="We-Math/We-Math",
    tables=("knowledge_concept",),
    aggregate=aggregate,
)
