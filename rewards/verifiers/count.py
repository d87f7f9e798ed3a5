"""Counting: exactly one whole number, or one number word.

A list that ends in the right number, a range, "about 5" and -5 for 5 are wrong; "5 apples" is 5.
"""

from __future__ import annotations

from fractions import Fraction

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.extract import final_answer
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.schema import Outcome, Sample, Verdict


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the answer is the gold count. Raises DataError for a gold without one."""
    gold = whole_number(sample.answer)
    if gold is None:
        raise DataError(f"record {sample.id!r}: the gold count {sample.answer[:80]!r} is no number")
    extraction = final_answer(response)
    answer = extraction.answer
    if answer is None:
        return Verdict(Outcome.WRONG, 0.0, extraction.reason)
    count = whole_number(answer)
    if count is None:
        reason = f"{answer[:80]} is not one whole number"
        return Verdict(Outcome.WRONG, 0.0, reason, extracted=answer)
    outcome = Outcome.CORRECT if count == gold else Outcome.WRONG
    sign = "equals" if count == gold else "is not"
    return Verdict(outcome, float(count == gold), f"{count} {sign} {gold}", extracted=answer)


def whole_number(text: str) -> int | None:
    """Return the value of a text that is one whole number (with a unit or not), else None."""
    value: Fraction | None
    try:
        value = to_fraction(units.split(clean(text)).value)
    except OverLimitError:
        return None
    return int(value) if value is not None and value.denominator == 1 else None
