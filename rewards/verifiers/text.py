"""Answers in words: correct when the normalised texts are equal.

Normalised: unicode, case, blanks, hyphens, outer punctuation, the points of abbreviations, a
leading article, LaTeX wrappers, subscripts (`CO_2` is CO2), number words, fixed phrases ("no
solutions"). A part of the gold answer, or the gold answer inside a longer statement ("not a cat"),
is wrong; only a noun for the kind of thing may be missing ("isosceles", "an isosceles triangle").
"""

from __future__ import annotations

import re

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.extract import (
    Extraction,
    answer_part,
    final_phrase,
    first_turn,
    last_box,
    last_tag,
)
from sapo_vl.rewards.parsing.latex import clean, fold
from sapo_vl.rewards.parsing.number_words import value_of
from sapo_vl.rewards.parsing.phrases import fold_words, saying
from sapo_vl.schema import Outcome, Sample, Verdict

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_ABBREVIATION = re.compile(r"(?<![^\W\d_])((?:[^\W\d_]\.\s?){1,6}[^\W\d_])\.?(?![^\W\d_])")
_KINDS = (
    *("triangle", "angle", "quadrilateral", "polygon", "shape", "figure", "line", "curve"),
    *("number", "function", "color", "colour", "prism", "pyramid", "graph", "chart"),
)
_KIND = re.compile(rf"(?<=\S)\s+(?:{'|'.join(_KINDS)})s?$")


def score(sample: Sample, response: str) -> Verdict:
    """Compare normalised texts. Raises DataError for an empty gold answer."""
    gold = normalise(sample.answer)
    if not gold:
        raise DataError(f"record {sample.id!r}: the gold answer {sample.answer[:80]!r} is empty")
    extraction = extract_text(response)
    answer = extraction.answer
    if not answer:
        return Verdict(Outcome.WRONG, 0.0, extraction.reason)
    if _same(gold, normalise(answer)):
        return Verdict(Outcome.CORRECT, 1.0, f"says {gold[:80]}", extracted=answer)
    return Verdict(Outcome.WRONG, 0.0, f"{answer[:80]} is not {gold[:80]}", extracted=answer)


def extract_text(response: str) -> Extraction:
    """Return an answer in words: from a box, a tag, a phrase, or the whole response."""
    box = last_box(response)
    if box.marked or box.reason == "<think> is never closed":
        return box
    text = answer_part(response) or ""
    if (tag := last_tag(text)) is not None:
        return tag
    text = first_turn(fold(text))
    return Extraction(final_phrase(text) or text or None, "stated answer")


def _same(gold: str, answer: str) -> bool:
    """Compare normalised texts; a noun for the kind of thing may be missing on one side."""
    if answer == gold:
        return True
    if _KIND.sub("", gold) == answer or gold == _KIND.sub("", answer):
        return True
    numbers = [int(text) if text.isdecimal() else value_of(text) for text in (gold, answer)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def normalise(text: str) -> str:
    """Return the text that two equal answers in words share."""
    text = _TEXT.sub(r"\1", clean(text))
    if "_" in text or "{" in text:
        text = re.sub(r"[_{}]", "", text)
    text = _ABBREVIATION.sub(lambda match: re.sub(r"[.\s]", "", match[1]), text)
    words = fold_words(text.replace("&", " and ").replace("-", " "))
    return saying(_ARTICLE.sub("", words))
