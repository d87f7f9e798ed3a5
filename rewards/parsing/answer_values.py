r"""The values that an answer is parsed into (answer_tree.py) and compared as (equality.py).

    (1, 2)               Group((Leaf("1"), Leaf("2")), "(", ")")
    1 < x                Relation(("1", "x"), ("<",))
    4:30                 Pair("colon", ("4", "30"))
    A(1,2)               Named("A", Group(...))
    x \approx 3.5        Approximation("x", "", "3.5")
    0.75 (or 3/4)        Alternatives((Leaf("0.75"), Leaf("3/4")))
    \angle ABC           Figure("angle", ("A", "B", "C"))

An expression without such a structure is a `Leaf`, for arithmetic or computer algebra.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Tristate = bool | None
"""True, False, or None: undecided."""

AND, OR = "\x01", "\x02"
"""Connectives inside a text that is being parsed; cleaned text has no control characters."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One expression, unparsed."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words: compared as folded text."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several values between brackets; `opening` is "" for a bare list, "\\{" for a set."""

    items: tuple[Value, ...]
    opening: str = ""
    closing: str = ""
    joint: str = ""  # of a bare list: and, or, cup, setminus; empty for commas

    @property
    def is_ordered(self) -> bool:
        """Whether the group is a tuple or an interval."""
        return self.opening in ("(", "[")


@dataclass(frozen=True, slots=True)
class Relation:
    """`a < b < c` or `x = 5`: n sides, n - 1 operators."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of leaves, from any matrix environment except a determinant."""

    rows: tuple[tuple[Leaf, ...], ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Numbers that belong together by a sign: a time, a ratio, a range, a score, a date."""

    kind: str  # colon, hyphen, to, date
    parts: tuple[str, ...]  # as written, left to right; year, month, day of a date
    unit: str = ""  # of a range ("years"); am or pm of a time
    text: str = ""  # the whole, for arithmetic where the other side is a plain number


@dataclass(frozen=True, slots=True)
class Named:
    """A value with its name in front: `A(1,2)`, `length: 5`."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Approximation:
    """`name = exact \\approx rounded`; the first two may be missing ("")."""

    name: str
    exact: str
    rounded: str


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The same value in several spellings: any of them answers a gold, all must be right."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A geometric figure named by its points."""

    kind: str  # angle, triangle, vector, segment, arc, polygon, circle; "" for bare letters
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    r"""`AB \parallel CD`: two figures and what holds between them."""

    operator: str  # \parallel, \perp, \cong, \sim
    left: Figure
    right: Figure


Value = (
    Leaf
    | Words
    | Group
    | Relation
    | Matrix
    | Pair
    | Named
    | Approximation
    | Alternatives
    | Figure
    | Statement
)


def all_of(results: Iterable[Tristate]) -> Tristate:
    """Three-valued `all`."""
    undecided = False
    for result in results:
        if result is False:
            return False
        undecided = undecided or result is None
    return None if undecided else True


def any_of(results: Iterable[Tristate]) -> Tristate:
    """Three-valued `any`."""
    undecided = False
    for result in results:
        if result is True:
            return True
        undecided = undecided or result is None
    return None if undecided else False
