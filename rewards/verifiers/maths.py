"""Mathematical answers: numbers, expressions, equations, tuples, intervals, sets.

`decide_fast` extracts the answer and decides what exact arithmetic can decide, which is most of it.
The rest is a `NeedsWorker` for the worker pool (pool/), where sympy may be slow, hang or crash
without harm. `score` does both for one response.

Left out: conversion between units (docs/verifiers.md has the conventions).
"""

from __future__ import annotations

import re
from functools import lru_cache

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing import equality
from sapo_vl.rewards.parsing.answer_tree import parse
from sapo_vl.rewards.parsing.answer_values import Group
from sapo_vl.rewards.parsing.exact_decider import ExactDecider, Tolerance
from sapo_vl.rewards.parsing.extract import (
    Extraction,
    final_answer,
    joined_boxes,
    last_box,
    last_tag,
)
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.pool.client import resolve
from sapo_vl.rewards.pool.jobs import NeedsWorker, Question
from sapo_vl.schema import Outcome, Sample, Verdict

MAX_GOLD_CHARS = 400  # a longer gold answer is a worked solution: its answer is extracted
MAX_PRECISION = 30  # decimals; a power of ten is computed from it
_BOX_OR_BRACE = re.compile(r"(?P<box>\\{1,4}(?:boxed|fbox)\s*\{)|\\.|(?P<brace>[{}])", re.S)


def score(sample: Sample, response: str) -> Verdict:
    """Return the verdict on one response, asking the shared worker pool where it is needed."""
    return resolve(decide_fast(sample, response))


def decide_fast(sample: Sample, response: str) -> Verdict | NeedsWorker:
    """Grade a response by exact arithmetic, or return the question that a worker has to decide.

    Raises DataError for an empty gold answer.
    """
    extraction = final_answer(response)
    result = compare(sample, extraction)
    if isinstance(result, NeedsWorker) or result.score or extraction.reason != "last \\boxed{}":
        return result
    boxes = joined_boxes(response)
    if boxes is None or not isinstance(parse(gold_text(sample)), Group):
        return result
    return compare(sample, Extraction(boxes, "joined boxes"))


def compare(sample: Sample, extraction: Extraction) -> Verdict | NeedsWorker:
    """Compare an extracted answer with the sample's, as `decide_fast` does for a response."""
    gold = gold_text(sample)
    if extraction.answer is None:
        return Verdict(Outcome.WRONG, 0.0, extraction.reason)
    tolerance = tolerance_of(sample)
    answer, equal = _decide(gold, extraction.answer, tolerance)
    if not answer:
        return Verdict(Outcome.WRONG, 0.0, "the answer is empty", extracted=extraction.answer)
    if equal is None:
        return NeedsWorker(Question(gold, answer, tolerance), extraction.answer)
    sign = "equals" if equal else "is not"
    reason = f"{answer[:80]} {sign} {gold[:80]}"
    outcome = Outcome.CORRECT if equal else Outcome.WRONG
    return Verdict(outcome, float(equal), reason, extracted=extraction.answer)


@lru_cache(maxsize=65536)  # the responses of a group repeat their answers
def _decide(gold: str, extracted: str, tolerance: Tolerance) -> tuple[str, bool | None]:
    """Return the cleaned answer and whether it equals the gold; None: arithmetic can't tell."""
    answer = clean(_unboxed(extracted))
    return answer, equality.same(gold, answer, ExactDecider(tolerance))


def tolerance_of(sample: Sample) -> Tolerance:
    """Return how far an answer may be off. Raises DataError for a value that can't be used."""
    precision, rel_tol = sample.precision, sample.rel_tol
    if precision is not None and not 0 <= precision <= MAX_PRECISION:
        raise DataError(
            f"record {sample.id!r}: precision is {precision}; it counts decimals and has to be "
            f"between 0 and {MAX_PRECISION}"
        )
    if rel_tol is not None and not 0 <= rel_tol < 1:
        raise DataError(
            f"record {sample.id!r}: rel_tol is {rel_tol!r}; it has to be a number from 0 up to 1"
        )
    return Tolerance(rel_tol, precision)


def gold_text(sample: Sample) -> str:
    """Return the cleaned gold answer. Raises DataError when nothing is left of it."""
    gold = _clean_gold(sample.answer)
    if not gold or not any(c.isalnum() or c in "\\∅" for c in gold):
        raise DataError(f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} is empty")
    return gold


@lru_cache(maxsize=65536)
def _clean_gold(gold: str) -> str:
    if len(gold) > MAX_GOLD_CHARS and "boxed" not in gold:
        return clean(final_answer(gold).answer or gold)
    return clean(_unboxed(gold, every=True))


def _unboxed(text: str, every: bool = False) -> str:
    """Return the content of the last box in a text, or of `every` box as a list (gold answers)."""
    if "boxed" not in text and "fbox" not in text and "<answer>" not in text:
        return text
    if not every:
        box = last_box(text)
        marked = box if box.marked else last_tag(text)
        return text if marked is None else marked.answer or ""
    return ", ".join(_outer_boxes(text)) or text


def _outer_boxes(text: str) -> list[str]:
    """Return the contents of the closed boxes that are in no other box, in one pass."""
    contents: list[str] = []
    depth, start, outside = 0, 0, 0  # braces that are open; the outermost box; where it began
    for match in _BOX_OR_BRACE.finditer(text):
        if match["box"] or match["brace"] == "{":
            if match["box"] and not start:
                start, outside = match.end(), depth
            depth += 1
        elif match["brace"] == "}":
            depth -= 1
            if start and depth == outside:
                contents.append(text[start : match.start()])
                start = 0
    return contents
