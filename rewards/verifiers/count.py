"""Counting: exactly one whole number, or one number word.

A list that ends in the right number, a range, "about 5" and -5 for 5 are wrong; "5 apples" and
"five (5)" are 5, "no apples" and "none" are 0.
"""

from __future__ import annotations

import re
from fractions import Fraction

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.extract import answer_part, final_answer
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.schema import Outcome, Sample, Verdict

_REMARK = re.compile(r"(.{1,200}?)\s?\(([^()]{1,200})\)\.?", re.S)
_SUM = re.compile(r"\d{1,9}(?:\s?\+\s?\d{1,9}){1,40}")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_ONLY = re.compile(r"(?:only|exactly|just|precisely|a total of|total of|in total)\s+", re.I)
_NONE = re.compile(r"(?:none|zero|nothing|no(?:\s[a-z]+){1,4}|没有|沒有|无|零)", re.I)
_THERE_ARE_NONE = re.compile(
    r"\b(?:there (?:are|is)|I (?:see|can see|count|find)|contains?|shows?) "
    r"(?:no|none|zero)\b(?! more)"
    r"(?!.{0,300}\d)",
    re.I | re.S,
)


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the answer is the gold count. Raises DataError for a gold without one."""
    gold = whole_number(sample.answer)
    if gold is None:
        raise DataError(f"record {sample.id!r}: the gold count {sample.answer[:80]!r} is no number")
    extraction = final_answer(response)
    answer = extraction.answer
    if answer is None and not extraction.marked and _THERE_ARE_NONE.search(answer_tail(response)):
        answer = "0"
    if answer is None:
        return Verdict(Outcome.WRONG, 0.0, extraction.reason)
    count = whole_number(answer)
    if count is None:
        reason = f"{answer[:80]} is not one whole number"
        return Verdict(Outcome.WRONG, 0.0, reason, extracted=answer)
    outcome = Outcome.CORRECT if count == gold else Outcome.WRONG
    sign = "equals" if count == gold else "is not"
    return Verdict(outcome, float(count == gold), f"{count} {sign} {gold}", extracted=answer)


def answer_tail(response: str) -> str:
    """Return the last 500 characters after thinking."""
    return (answer_part(response) or "")[-500:]


def whole_number(text: str) -> int | None:
    """Return the value of a text that is one whole number (with a unit or not), else None.

    A remark in parentheses may repeat the value, in digits, in words or as a sum.
    """
    text = _TEXT.sub(r" \1 ", clean(text)).strip()
    if remark := _REMARK.fullmatch(text):
        return _with_remark(remark[1], remark[2].strip())
    return _plain_number(text)


def _with_remark(text: str, remark: str) -> int | None:
    value = _plain_number(text)
    if _SUM.fullmatch(remark):
        repeated: int | None = sum(int(part) for part in remark.split("+"))
    else:
        repeated = _plain_number(remark)
    if repeated is None and any(char.isdigit() for char in remark):
        return None
    return value if repeated is None or repeated == value else None


def _plain_number(text: str) -> int | None:
    text = _ONLY.sub("", text.strip())
    if _NONE.fullmatch(text):
        return 0
    value: Fraction | None
    try:
        value = to_fraction(units.split(text).value)
    except OverLimitError:
        return None
    return int(value) if value is not None and value.denominator == 1 else None
