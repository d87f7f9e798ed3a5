"""DynaMath (Zou et al., 2411.00836): 501 seed questions in ten variants; DynaMath/DynaMath.

Prompt: the question and a guide for JSON with "solution" and "short answer". Judged by type: a
float within 0.001 (its first word; "x\u03c0" is x times pi), a one-letter choice by equality, a
longer one by whether its first three characters contain the letter, a text by containment.

Oddities kept: an answer inside a longer text counts ("not white" contains "white"). Stricter rule:
`exact_text`. The authors published verdicts without responses; such rows keep their verdict.
Metrics: average accuracy, and worst case, the share of seed questions with all ten variants right.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.sources import dynamath
from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks.accuracy import cell, tables, verdicts
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    ScoredResponse,
)
from sapo_vl.evaluation.benchmarks.rows import letter_gold, require, single_gold, unscorable
from sapo_vl.rewards.parsing.extract import answer_part, final_answer
from sapo_vl.schema import IMAGE_MARK, Sample

_SHORT = re.compile(r'"short answer"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\n]+)')
_TYPES = {
    "multiple choice": "the corresponding choice option in the 'short answer' key, such as 'A', "
    "'B', 'C', or 'D'",
    "float": "a three-digit floating-point number in the 'short answer' key",
    "text": "the answer in the 'short answer' key",
}
_GUIDE = (
    "## Answer Instruction Please provide an answer to the question outlined above. Your response "
    "should adhere to the following JSON format, which includes two keys: 'solution' and 'short "
    "answer'. The 'solution' key can contain detailed steps, and the 'short answer' key holds "
)
_EXAMPLE = (
    'Example: {"solution": "[Detailed step-by-step explanation]", "short answer": '
    '"[Concise Answer]"}'
)
VARIANTS = 10
LETTERS = "ABCDEFGHIJ"


def prompt(sample: Sample) -> str:
    """Return the question and the guide for the answer's type."""
    published: Published = sample.metadata["published"]
    kind = published["answer_type"]
    if kind not in _TYPES:
        raise DataError(f"{sample.id}: answer_type {kind!r} is not one of {[*_TYPES]}")
    question = f"{IMAGE_MARK}## Question\n{published['question']}"
    return f"{question}\n{_GUIDE}{_TYPES[kind]}.\n{_EXAMPLE}"


def check(response: Response) -> Response:
    """Require the type of answer, which decides the comparison, and a gold of this type."""
    require(response, "answer_type", tuple(_TYPES))
    if response.answer_type == "multiple choice":
        return letter_gold(response, LETTERS)
    response = single_gold(response)
    if (
        response.answer_type == "text"
        or response.unscorable
        or _number(response.answer) is not None
    ):
        return response
    return unscorable(response, f"the gold {response.answer[:80]!r} is no number")


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the key "short answer"; without it, which no protocol covers, the final answer."""
    text = answer_part(response.text) or ""
    matches = _SHORT.findall(text)
    if not matches:
        return ExtractedAnswer(final_answer(response.text).answer, "no short answer key: own rule")
    value = matches[-1].strip()
    try:
        return ExtractedAnswer(str(json.loads(value)).strip())
    except ValueError:
        return ExtractedAnswer(value.strip("\"' "))


def judge(response: Response, value: Any) -> Judgement:
    """Compare by the type of the answer."""
    if not isinstance(value, str) or not value.strip():
        return Judgement(False, "no short answer")
    expected, value = str(response.answer).strip(), value.strip()
    if response.answer_type == "float":
        left, right = _number(expected), _number(value)
        close = left is not None and right is not None and abs(left - right) <= 0.001
        return Judgement(close, f"{value[:80]!r} against {expected!r}")
    given, wanted = value.lower(), expected.lower()
    if response.answer_type == "multiple choice":
        correct = given == wanted if len(value) == 1 else wanted in given[:3]
    else:
        correct = wanted in given
    return Judgement(
        correct, f"{value[:80]!r} against {expected!r}", {"exact_text": given == wanted}
    )


def _number(text: str) -> float | None:
    text = text.split()[0] if text.split() else ""
    try:
        if text.endswith("π"):
            return (float(text[:-1]) if text[:-1] else 1.0) * math.pi
        return float(text)
    except ValueError:
        return None


def aggregate(scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return worst-case accuracy over all seed questions, and by subject, level and answer type.

    With several samples per variant, each sample index counts as a seed question of its own.
    """
    seeds: dict[tuple[str, int], list[ScoredResponse]] = defaultdict(list)
    for item in scored:
        seeds[item.response.problem_id, item.response.sample].append(item)
    worst = [_worst(group) for group in seeds.values()]
    complete = sum(len({i.response.variant for i in group}) == VARIANTS for group in seeds.values())
    by_group = tables(worst, ("subject", "level", "answer_type"))
    return {
        "worst_case": cell(verdicts(worst)) | {"seed_questions_with_all_variants": complete},
        **{f"worst_case_{key}": values for key, values in by_group.items()},
    }


def _worst(group: Sequence[ScoredResponse]) -> ScoredResponse:
    """Return the verdict of all variants as one of the seed question."""
    response = replace(group[0].response, variant="")
    verdict = Judgement(all(item.correct for item in group), "")
    return ScoredResponse(response, group[0].extraction, verdict)


BENCHMARK = Benchmark(
    name="dynamath",
    title="DynaMath",
    rows=partial(dynamath.rows, by_problem=True),
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("samples and result/10trials/trial*/dataset.json",),
    tables=("variant", "subject", "level", "answer_type"),
    aggregate=aggregate,
    labels=True,
)
