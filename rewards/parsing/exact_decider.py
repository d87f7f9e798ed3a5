"""Decide what exact arithmetic can decide; leave the rest undecided. No sympy, no timeout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sapo_vl.rewards.parsing.answer_tree import Relation, Verdict3
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[A-Za-z]{4,}")
_UNEVALUATED = re.compile(r"\\(?:int|iint|oint|lim|det|sum|prod)(?![a-z])")
_SHORT_SUM = re.compile(
    r"\\(?:sum|prod)\s*_\s*\{[^{}]*=\s*\d{1,2}\s*\}\s*\^\s*(?:\d{1,2}|\{\s*\d{1,2}\s*\})(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer may be from the gold number; the default is not at all."""

    rel_tol: float | None = None  # |answer - gold| <= rel_tol * |gold|
    precision: int | None = None  # decimals: |answer - gold| <= half a unit of the last one

    @property
    def is_exact(self) -> bool:
        """Whether only equal numbers pass."""
        return self.rel_tol is None and self.precision is None

    def allows(self, gold: Fraction, answer: Fraction) -> bool:
        """Compare two exact numbers."""
        if gold == answer:
            return True
        gap = abs(gold - answer)
        if self.rel_tol is not None and gap <= Fraction(str(self.rel_tol)) * abs(gold):
            return True
        return self.precision is not None and gap <= Fraction(1, 2 * 10**self.precision)


class ExactDecider:
    """The decider of this process (see equality.Decider)."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.over_limit = ""  # why a leaf was too large to be computed, if one was

    def number(self, gold: str, answer: str) -> Verdict3:
        """Compare two expressions without units; None when one is not a plain number."""
        try:
            left, right = to_fraction(gold), to_fraction(answer)
        except OverLimitError as error:
            self.over_limit = str(error)
            return None
        if left is not None and right is not None:
            return self.tolerance.allows(left, right)
        if bare(gold) == bare(answer):
            return True
        if is_prose(answer) and not is_prose(gold):
            return False
        if _UNEVALUATED.search(_SHORT_SUM.sub("", answer)) and not _UNEVALUATED.search(gold):
            return False
        if (left is None) != (right is None):
            other = answer if right is None else gold
            if other.replace(" ", "").lstrip("+-") == "\\infty":
                return False
            if not other.strip() or not any(c.isalnum() for c in other):
                return False
            if other.replace(" ", "").isalpha() and other not in ("e", "i"):
                return False
        return None

    def relation(self, gold: Relation, answer: Relation) -> Verdict3:
        """Equal sides are equal relations; everything else needs algebra."""
        if gold == answer:
            return True
        return None


def bare(text: str) -> str:
    """Return the text without blanks (other than between digits) and without needless braces."""
    text = re.sub(r"(?<!\d) | (?!\d)", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


def is_prose(text: str) -> bool:
    """Whether a text holds words that are no mathematics."""
    return bool(_WORD.search(_COMMAND.sub(" ", text)))
