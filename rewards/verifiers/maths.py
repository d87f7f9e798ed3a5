"""Mathematical answers: numbers, expressions, equations, tuples, intervals, sets.

`first_look` finds the answer and decides what exact arithmetic can decide, which is most of it.
What is left is a `Pending` question for the worker pool (pool.py), where sympy may be slow, hang
or die without harm. `score` does both for one response.

Left out: conversion between units (docs/verifiers.md has the conventions).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing import answer_tree as structure
from sapo_vl.rewards.parsing import equality
from sapo_vl.rewards.parsing.exact_decider import ExactDecider, Tolerance
from sapo_vl.rewards.parsing.extract import (
    Extraction,
    closing_brace,
    final_answer,
    joined_boxes,
    last_box,
    last_tag,
)
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.pool.jobs import Question
from sapo_vl.schema import Outcome, Sample, Verdict

EXACTLY = Tolerance()
MAX_GOLD_CHARS = 400  # a longer gold is read like a response
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")


@dataclass(frozen=True, slots=True)
class Pending:
    """A response whose verdict a worker decides."""

    question: Question
    extracted: str


def score(sample: Sample, response: str) -> Verdict:
    """Return the verdict on one response, asking the shared worker pool where that is needed."""
    return decided(first_look(sample, response))


def decided(looked: Verdict | Pending) -> Verdict:
    """Return a verdict as it is; ask the shared worker pool about what is pending."""
    if isinstance(looked, Verdict):
        return looked
    from sapo_vl.rewards.pool.client import shared

    return settle(looked, shared().decide([looked.question])[0])


def first_look(sample: Sample, response: str) -> Verdict | Pending:
    """Return the verdict, or the question that is left. Raises DataError for an empty gold."""
    found = final_answer(response)
    looked = compare(sample, found)
    if isinstance(looked, Pending) or looked.score or found.reason != "last \\boxed{}":
        return looked
    several = joined_boxes(response)
    if several is None or not isinstance(structure.parse(gold_text(sample)), structure.Group):
        return looked
    return compare(sample, Extraction(several, "joined boxes"))


def compare(sample: Sample, found: Extraction) -> Verdict | Pending:
    """Compare an extracted answer with the sample's."""
    gold = gold_text(sample)
    if found.answer is None:
        return Verdict(Outcome.WRONG, 0.0, found.reason)
    exact = sample.metadata.get("rel_tol") is None and sample.precision is None
    tolerance = EXACTLY if exact else Tolerance(sample.metadata.get("rel_tol"), sample.precision)
    answer, equal = _decide(gold, found.answer, tolerance)
    if not answer:
        return Verdict(Outcome.WRONG, 0.0, "the answer is empty", extracted=found.answer)
    if equal is None:
        return Pending(Question(gold, answer, tolerance), found.answer)
    sign = "equals" if equal else "is not"
    reason = f"{answer[:80]} {sign} {gold[:80]}"
    outcome = Outcome.CORRECT if equal else Outcome.WRONG
    return Verdict(outcome, float(equal), reason, extracted=found.answer)


@lru_cache(maxsize=65536)
def _decide(gold: str, extracted: str, tolerance: Tolerance) -> tuple[str, bool | None]:
    """Return the cleaned answer and what exact arithmetic says; the responses of a group repeat."""
    answer = clean(_unboxed(extracted))
    return answer, equality.same(gold, answer, ExactDecider(tolerance))


def settle(pending: Pending, result: Verdict) -> Verdict:
    """Return the worker's verdict with the answer it is about."""
    return Verdict(
        result.outcome, result.score, result.reason, pending.extracted, result.seconds, result.tier
    )


def gold_text(sample: Sample) -> str:
    """Return the cleaned gold answer. Raises DataError when nothing is left of it."""
    gold = _clean_gold(sample.answer)
    if not gold or not any(c.isalnum() or c in "\\∅" for c in gold):
        raise DataError(f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} is empty")
    return gold


@lru_cache(maxsize=65536)
def _clean_gold(gold: str) -> str:
    if len(gold) > MAX_GOLD_CHARS and "boxed" not in gold:  # a worked solution instead of an answer
        return clean(final_answer(gold).answer or gold)
    return clean(_unboxed(gold, every=True))


def _unboxed(text: str, every: bool = False) -> str:
    """Take the last box out of a text, or (for a gold) all of them as a list."""
    if "boxed" not in text and "fbox" not in text and "<answer>" not in text:
        return text
    if not every:
        found = last_box(text)
        return (
            found.answer or ""
            if found.marked
            else (last_tag(text) or Extraction(text, "")).answer or ""
        )
    inside = []
    for match in _BOX.finditer(text):
        closing = closing_brace(text, match.end())
        if closing > 0:
            inside.append(text[match.end() + 1 : closing])
    return ", ".join(inside) or text
