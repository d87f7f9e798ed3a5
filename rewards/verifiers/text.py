"""Answers in words: equal when their folded texts are equal.

Folded: unicode, case, blanks, outer punctuation, LaTeX wrappers. A part of the gold, or the gold
inside a longer statement ("not a cat"), is not the answer. Number words equal their numbers.
"""

from __future__ import annotations

import re

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.answer_tree import fold_words
from sapo_vl.rewards.parsing.extract import (
    answer_part,
    final_phrase,
    first_turn,
    last_box,
    last_tag,
)
from sapo_vl.rewards.parsing.latex import clean, fold
from sapo_vl.schema import Outcome, Sample, Verdict

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the answer's folded text is the gold's. Raises DataError without gold."""
    gold = folded(sample.answer)
    if not gold:
        raise DataError(f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} is empty")
    answer, reason = find(response)
    if not answer:
        return Verdict(Outcome.WRONG, 0.0, reason)
    if folded(answer) == gold:
        return Verdict(Outcome.CORRECT, 1.0, f"says {gold[:80]}", extracted=answer)
    return Verdict(Outcome.WRONG, 0.0, f"{answer[:80]} is not {gold[:80]}", extracted=answer)


def find(response: str) -> tuple[str | None, str]:
    """Return the answer in words and how it was found: box, tag, phrase, or the whole response."""
    box = last_box(response)
    if box.marked or box.reason == "<think> is never closed":
        return box.answer, box.reason
    text = answer_part(response) or ""
    if (tag := last_tag(text)) is not None:
        return tag.answer, tag.reason
    text = first_turn(fold(text))
    return final_phrase(text) or text or None, "stated answer"


def folded(text: str) -> str:
    """Return a text answer in one spelling."""
    return _ARTICLE.sub("", fold_words(_TEXT.sub(r"\1", clean(text)).strip("{} ")))
