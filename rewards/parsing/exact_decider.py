"""Compare expressions by exact arithmetic, without sympy; undecided where that isn't enough.

The work is bounded by the length of the input, so no timeout is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sapo_vl.rewards.parsing.answer_values import Relation, Tristate
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[A-Za-z]{4,}")
_DECIMAL = re.compile(r"[+-]?(\d*)\.(\d+)")
_UNEVALUATED = re.compile(r"\\(?:int|iint|oint|lim|det|sum|prod)(?![a-z])")
_SHORT_SUM = re.compile(
    r"\\(?:sum|prod)\s*_\s*\{[^{}]*=\s*\d{1,2}\s*\}\s*\^\s*(?:\d{1,2}|\{\s*\d{1,2}\s*\})(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer may be from the gold number; by default they must be equal."""

    rel_tol: float | None = None  # |answer - gold| <= rel_tol * |gold|
    precision: int | None = None  # decimals: |answer - gold| <= half a unit of the last one

    def allows(self, gold: Fraction, answer: Fraction) -> bool:
        """Whether `answer` is within the tolerance of `gold`."""
        if gold == answer:
            return True
        gap = abs(gold - answer)
        if self.rel_tol is not None and gap <= Fraction(str(self.rel_tol)) * abs(gold):
            return True
        return self.precision is not None and gap <= Fraction(1, 2 * 10**self.precision)


LONG_DECIMAL = 10
"""Significant digits from which a decimal that rounds the exact gold is taken for it: nobody writes
ten right digits by chance."""


def decimal_step(text: str, digits: int = 1) -> Fraction | None:
    """Return one unit of the last place of a decimal with so many digits, else None."""
    match = _DECIMAL.fullmatch(text.strip())
    if match is None or len((match[1] + match[2]).lstrip("0")) < digits:
        return None
    return Fraction(1, 10 ** len(match[2]))


class ExactDecider:
    """The equality.Decider of the main process; symbolic.py extends it in the workers."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.over_limit = ""  # reason, if a leaf was too large to compute

    def number(self, gold: str, answer: str) -> Tristate:
        """Compare two expressions without units; None when one is not a plain number."""
        try:
            left, right = to_fraction(gold), to_fraction(answer)
        except OverLimitError as error:
            self.over_limit = str(error)
            return None
        if left is not None and right is not None:
            if self.tolerance.allows(left, right):
                return True
            step = decimal_step(answer, LONG_DECIMAL)
            return step is not None and "." not in gold and abs(left - right) < step
        if bare(gold) == bare(answer):
            return True
        if is_prose(answer) and not is_prose(gold):
            return False
        if _UNEVALUATED.search(_SHORT_SUM.sub("", answer)) and not _UNEVALUATED.search(gold):
            return False
        if (left is None) != (right is None):
            expression = answer if right is None else gold  # beside a plain number
            if expression.replace(" ", "").lstrip("+-") == "\\infty":
                return False
            if not expression.strip() or not any(c.isalnum() for c in expression):
                return False
            if expression.replace(" ", "").isalpha() and expression not in ("e", "i"):
                return False
        return None

    def rounding(self, exact: str, rounded: str) -> Tristate:
        """Whether `rounded` is within one unit of its last place, or 1 %, of `exact`."""
        try:
            left, right = to_fraction(exact), to_fraction(rounded)
        except OverLimitError as error:
            self.over_limit = str(error)
            return None
        if left is None or right is None:
            return None
        step = decimal_step(rounded) or Fraction(1)
        return abs(left - right) <= max(step, abs(left) / 100)

    def relation(self, gold: Relation, answer: Relation) -> Tristate:
        """Relations with the same text are equal; anything else needs algebra."""
        return True if gold == answer else None


def bare(text: str) -> str:
    """Return the text without blanks (except between digits) and without redundant braces."""
    text = re.sub(r"(?<!\d) | (?!\d)", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


def is_prose(text: str) -> bool:
    """Whether a text contains words that aren't mathematics."""
    return bool(_WORD.search(_COMMAND.sub(" ", text)))
