r"""Sets of real numbers: intervals, inequalities, unions, `\setminus`, "all real numbers".

    x > -1 and x < 2          (-1, 2)
    x \ne 0                   (-\infty, 0) \cup (0, \infty)
    \mathbb{R} \setminus \{0\}    the same

Where every end is a rational number, the set is brought into one normal form, so `[1,2] \cup [2,3]`
is `[1,3]`. With other ends the pieces are compared one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

from sapo_vl.rewards.parsing.answer_values import Group, Leaf, Relation, Tristate, Value, Words
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.rewards.parsing.relations import is_name, is_numeric

_T = TypeVar("_T")
MAX_PIECES = 32
ALL, EMPTY = "all real numbers", "no solution"
"""The words of those sets, as phrases.py normalises them."""
_LOW, _HIGH = "-\\infty", "\\infty"
_TURNED = {">": "<", "\\ge": "\\le", "<": ">", "\\le": "\\ge"}


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval or, with equal closed ends, a point; ends as text."""

    low: str
    high: str
    has_low: bool
    has_high: bool


@dataclass(frozen=True, slots=True)
class NumberSet:
    """The union of the pieces without the holes; `variable` where an inequality names one."""

    pieces: tuple[Piece, ...]
    holes: tuple[str, ...] = ()
    variable: str = ""


REALS = NumberSet((Piece(_LOW, _HIGH, False, False),))


def is_set(value: Value) -> bool:
    """Whether a value can only be a set of real numbers (a tuple may be an interval)."""
    if isinstance(value, Words):
        return value.text in (ALL, EMPTY)
    if isinstance(value, Relation):
        return bool(set(value.operators) - {"="})
    if not isinstance(value, Group):
        return False
    if value.is_ordered:
        has_infinity = any("\\infty" in getattr(item, "text", "") for item in value.items)
        return len(value.items) == 2 and (
            has_infinity or (value.opening, value.closing) != ("(", ")")
        )
    return value.joint in ("cup", "setminus", "cap") or any(is_set(item) for item in value.items)


def has_several_unknowns(value: Value) -> bool:
    """Whether a value is a list of conditions on different letters: `x > 0, y < 0`."""
    if not isinstance(value, Group):
        return False
    parts = [_from_relation(item) for item in value.items if isinstance(item, Relation)]
    return len({part.variable for part in parts if part and part.variable}) > 1


def number_set(value: Value) -> NumberSet | None:
    """Return the set that a value is, or None when it isn't one or has too many pieces."""
    if isinstance(value, Words):
        return {ALL: REALS, EMPTY: NumberSet(())}.get(value.text)
    if isinstance(value, Relation):
        return _from_relation(value)
    if isinstance(value, Leaf):
        return None
    if not isinstance(value, Group) or len(value.items) > MAX_PIECES:
        return None
    if value.is_ordered:
        return _from_brackets(value)
    if value.opening:
        return _from_points(value)
    parts = [_of_list(item) for item in value.items]
    if any(part is None for part in parts):
        return None
    return _combine([part for part in parts if part is not None], value)


def _of_list(item: Value) -> NumberSet | None:
    if isinstance(item, Relation) and item.operators == ("=",) and is_name(item.sides[0]):
        return NumberSet((_point(item.sides[1]),), variable=item.sides[0])
    if isinstance(item, Leaf):
        return NumberSet((_point(item.text),)) if is_numeric(item.text) else None
    return number_set(item)


def _combine(parts: Sequence[NumberSet], group: Group) -> NumberSet | None:
    names = {part.variable for part in parts if part.variable}
    if len(names) > 1:
        return None
    if group.joint == "setminus":
        return _without(parts)
    joint = group.joint
    is_bounds = all(isinstance(item, Relation) for item in group.items)
    if not joint:  # a comma between inequalities is "and" where that leaves something
        both = _intersection(parts) if is_bounds else None
        joint = "and" if both is not None and both.pieces else "or"
    if joint == "cap" or (joint == "and" and is_bounds):
        return _intersection(parts)
    union = NumberSet(tuple(piece for part in parts for piece in part.pieces))
    if any(part.holes for part in parts):
        return None
    return replace(union, variable=next(iter(names), ""))


def _without(parts: Sequence[NumberSet]) -> NumberSet | None:
    base, holes = parts[0], []
    for removed in parts[1:]:
        if any(piece.low != piece.high for piece in removed.pieces):
            return None
        holes += [piece.low for piece in removed.pieces]
    return replace(base, holes=(*base.holes, *holes))


def _intersection(parts: Sequence[NumberSet]) -> NumberSet | None:
    """Return what lies in all parts; None where the order of two ends isn't known."""
    result = parts[0]
    for part in parts[1:]:
        pieces = []
        for left in result.pieces:
            for right in part.pieces:
                both = _overlap(left, right)
                if both is None:
                    return None
                pieces += both
        name = result.variable or part.variable
        result = NumberSet(tuple(pieces[:MAX_PIECES]), (*result.holes, *part.holes), name)
    return result


def _overlap(left: Piece, right: Piece) -> list[Piece] | None:
    low, has_low = _inner(left, right, low=True)
    high, has_high = _inner(left, right, low=False)
    if low is None or high is None:
        return None
    both = Piece(low, high, has_low, has_high)
    ranks = _rank(low), _rank(high)
    if ranks[0] is None or ranks[1] is None or ranks[0] < ranks[1]:
        return [both]
    return [both] if ranks[0] == ranks[1] and has_low and has_high else []


def _inner(left: Piece, right: Piece, low: bool) -> tuple[str | None, bool]:
    """Return the tighter of two ends and whether it belongs to the set."""
    open_end = _LOW if low else _HIGH
    ends = [(p.low, p.has_low) if low else (p.high, p.has_high) for p in (left, right)]
    bounded = [end for end in ends if end[0] != open_end]
    if len(bounded) < 2:
        return bounded[0] if bounded else ends[0]
    if bounded[0][0] == bounded[1][0]:
        return bounded[0][0], bounded[0][1] and bounded[1][1]
    ranks = [_rank(end[0]) for end in bounded]
    if ranks[0] is None or ranks[1] is None:
        return None, False
    if ranks[0] == ranks[1]:
        return bounded[0][0], bounded[0][1] and bounded[1][1]
    return bounded[0] if (ranks[0] > ranks[1]) == low else bounded[1]


def _point(text: str) -> Piece:
    return Piece(text, text, True, True)


def _from_points(group: Group) -> NumberSet | None:
    if not all(isinstance(item, Leaf) for item in group.items):
        return number_set(group.items[0]) if len(group.items) == 1 else None
    return NumberSet(tuple(_point(item.text) for item in group.items if isinstance(item, Leaf)))


def _from_brackets(group: Group) -> NumberSet | None:
    if len(group.items) != 2 or not all(isinstance(item, Leaf) for item in group.items):
        return None
    low, high = (_end(item.text) for item in group.items if isinstance(item, Leaf))
    ranks = _rank(low), _rank(high)
    if ranks[0] is not None and ranks[1] is not None and ranks[0] >= ranks[1]:
        return None  # `(2,1)` is a point
    has_low = group.opening == "[" and low != _LOW
    has_high = group.closing == "]" and high != _HIGH
    return NumberSet((Piece(low, high, has_low, has_high),))


def _end(text: str) -> str:
    text = text.strip()
    bare = text.replace(" ", "")
    return {"+\\infty": _HIGH, "\\infty": _HIGH, "-\\infty": _LOW}.get(bare, text)


def _from_relation(relation: Relation) -> NumberSet | None:
    r"""Return the set of `a < x <= b`, `x > a` or `x \ne a`; None when an end isn't a number."""
    sides, operators = relation.sides, relation.operators
    if operators == ("\\ne",) and _is_variable(sides[0]) and is_numeric(sides[1]):
        return replace(REALS, holes=(sides[1],), variable=sides[0])
    if all(op in (">", "\\ge") for op in operators):
        sides = sides[::-1]
        operators = tuple(_TURNED[op] for op in operators[::-1])
    if not all(op in ("<", "\\le") for op in operators):
        return None
    closed = [op == "\\le" for op in operators]
    if len(sides) == 3 and is_numeric(sides[0]) and is_numeric(sides[2]) and is_name(sides[1]):
        piece, name = Piece(_end(sides[0]), _end(sides[2]), *closed), sides[1]
    elif len(sides) == 2 and _is_variable(sides[0]) and is_numeric(sides[1]):
        piece, name = Piece(_LOW, _end(sides[1]), False, closed[0]), sides[0]
    elif len(sides) == 2 and _is_variable(sides[1]) and is_numeric(sides[0]):
        piece, name = Piece(_end(sides[0]), _HIGH, closed[0], False), sides[1]
    else:
        return None
    if piece.high == _HIGH:
        piece = replace(piece, has_high=False)
    if piece.low == _LOW:
        piece = replace(piece, has_low=False)
    return NumberSet((piece,), variable=name.strip())


def _is_variable(text: str) -> bool:
    """A name, or nothing: `\\ge 5` leaves the variable out."""
    return not text.strip() or is_name(text)


def _rank(text: str) -> Fraction | float | None:
    """Return a number to order an end by, or None."""
    if text in (_LOW, _HIGH):
        return -math.inf if text == _LOW else math.inf
    try:
        return to_fraction(text)
    except OverLimitError:
        return None


Number = Callable[[str, str], Tristate]


def same_sets(gold: NumberSet, answer: NumberSet, number: Number) -> Tristate:
    """Compare two sets; `number` compares two ends, gold first."""
    names = {_folded(gold.variable), _folded(answer.variable)} - {""}
    if len(names) > 1:
        return False
    normal = _normal(gold), _normal(answer)
    if normal[0] is not None and normal[1] is not None:
        return normal[0] == normal[1]
    gold, answer = _merged(gold), _merged(answer)
    if len(gold.pieces) != len(answer.pieces) or len(gold.holes) != len(answer.holes):
        return False
    pieces = _match(gold.pieces, answer.pieces, lambda g, a: _same_piece(g, a, number))
    if pieces is False:
        return False
    holes = _match(gold.holes, answer.holes, number)
    return holes if pieces is True or holes is False else None


def _folded(name: str) -> str:
    return name.replace(" ", "").strip("{}").casefold()


def _normal(numbers: NumberSet) -> tuple[tuple[object, ...], ...] | None:
    """Return the sorted, merged pieces as numbers, or None when an end isn't rational."""
    pieces = []
    for piece in numbers.pieces:
        low, high = _rank(piece.low), _rank(piece.high)
        if low is None or high is None:
            return None
        if low < high or (low == high and piece.has_low and piece.has_high):
            # an end that belongs to the piece reaches half a step further
            pieces.append(((low, not piece.has_low), (high, piece.has_high)))
    merged: list[list[tuple[Fraction | float, bool]]] = []
    for low_end, high_end in sorted(pieces):
        if merged and low_end <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], high_end)
        else:
            merged.append([low_end, high_end])
    for hole in numbers.holes:
        at = _rank(hole)
        if at is None:
            return None
        merged = [part for piece in merged for part in _cut(piece, at)]
    return tuple((low, high) for low, high in merged)


def _cut(
    piece: list[tuple[Fraction | float, bool]], at: Fraction | float
) -> list[list[tuple[Fraction | float, bool]]]:
    low, high = piece
    if not low <= (at, False) or not (at, True) <= high:
        return [piece]
    parts = [[low, (at, False)], [(at, True), high]]
    return [part for part in parts if part[0] < part[1]]


def _merged(numbers: NumberSet) -> NumberSet:
    """Join two open pieces that touch at one end into one with a hole there."""
    pieces, holes = list(numbers.pieces), list(numbers.holes)
    for left in numbers.pieces:
        for right in numbers.pieces:
            touches = left.high.replace(" ", "") == right.low.replace(" ", "")
            if touches and left in pieces and right in pieces and left != right:
                pieces.remove(left)
                pieces.remove(right)
                pieces.append(Piece(left.low, right.high, left.has_low, right.has_high))
                if not (left.has_high or right.has_low):
                    holes.append(left.high)
                break
    return NumberSet(tuple(pieces), tuple(holes), numbers.variable)


def _match(
    gold: Sequence[_T], answer: Sequence[_T], same: Callable[[_T, _T], Tristate]
) -> Tristate:
    """Match the items one to one, in any order."""
    undecided, unmatched = False, list(answer)
    for item in gold:
        results = [same(item, candidate) for candidate in unmatched]
        if True in results:
            unmatched.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_piece(gold: Piece, answer: Piece, number: Number) -> Tristate:
    if (gold.has_low, gold.has_high) != (answer.has_low, answer.has_high):
        return False
    low = gold.low == answer.low or number(gold.low, answer.low)
    if low is False:
        return False
    high = gold.high == answer.high or number(gold.high, answer.high)
    return high if low is True or high is False else None
