"""Compare two answers by their shape, part by part.

`same(gold, answer, decide)` takes two cleaned texts (latex.py), takes them apart (structure.py) and
compares. What is left at the leaves goes to `decide`: in this process it knows exact arithmetic
only and may say "undecided"; in a worker it asks sympy. Three results: True, False, None.

Conventions (docs/verifiers.md says why): a bare list and a set are unordered, a tuple is ordered;
`1,2` matches `(1,2)` in that order; `x = 5` matches `5`, `y = 5` does not match `x = 5`; an
inequality matches its interval; `\\pm` is both values; a vector matches the tuple of its entries.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeGuard

from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.answer_tree import (
    Group,
    Leaf,
    Matrix,
    Relation,
    Value,
    Verdict3,
    Words,
    fold_words,
    is_name,
    parse,
    split_top,
)
from sapo_vl.rewards.parsing.rationals import to_fraction

_BASED = re.compile(r"([0-9A-Z]+)\s*_\s*\{?\s*(\d+)\s*\}?")
_COMMAND = re.compile(r"\\[a-zA-Z]+")


class Decider(Protocol):
    """Says whether two leaves are equal."""

    def number(self, gold: str, answer: str) -> Verdict3:
        """Compare two expressions without units."""

    def relation(self, gold: Relation, answer: Relation) -> Verdict3:
        """Compare two equations or inequalities that are not plain assignments."""


def same(gold: str, answer: str, decide: Decider) -> Verdict3:
    """Whether two cleaned texts say the same; None when `decide` could not tell."""
    if not answer.strip() or not gold.strip():
        return False
    if gold == answer or gold.replace(" ", "") == answer.replace(" ", ""):
        return (
            " " not in answer or gold.split() == answer.split() or not _loses_digits(gold, answer)
        )
    left, right = parse(gold), parse(answer)
    result = _same(left, right, decide)
    if result is not True and "," in gold + answer:
        result = _other_reading(gold, answer, left, right, decide) or result
    return result


def _loses_digits(gold: str, answer: str) -> bool:
    """`4 2` is not `42`: a blank between digits is not noise."""
    return bool(re.search(r"\d \d", gold)) != bool(re.search(r"\d \d", answer))


def _other_reading(gold: str, answer: str, left: Value, right: Value, decide: Decider) -> Verdict3:
    """`100,200` may be one number or two; `1,22` may be a decimal."""
    if isinstance(left, Leaf) != isinstance(right, Leaf):
        texts = [gold, answer]
        lists = [t.replace(",", ", ") if isinstance(v, Leaf) else t
                 for t, v in zip(texts, (left, right), strict=True)]  # fmt: skip
        if lists != texts and _same(parse(lists[0]), parse(lists[1]), decide):
            return True
        decimal = [re.sub(r"^([+-]?\d+),(\d{1,2})$", r"\1.\2", t) for t in texts]
        if decimal != texts and not isinstance(parse(decimal[0]), Group):
            return _same(parse(decimal[0]), parse(decimal[1]), decide)
    return None


def _same(gold: Value, answer: Value, decide: Decider) -> Verdict3:
    gold, answer = _as_interval(gold, answer), _as_interval(answer, gold)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relations(gold, answer, decide)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _same_words(gold, answer)
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return _same_leaves(gold.text, answer.text, decide)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _same_matrices(gold, answer, decide)
    for group, other in ((gold, answer), (answer, gold)):
        if isinstance(group, Group) and group.is_ordered and not isinstance(other, Group):
            return False
    left = gold if isinstance(gold, Group) else Group((gold,))
    right = answer if isinstance(answer, Group) else Group((answer,))
    return _same_groups(left, right, decide)


def _same_groups(gold: Group, answer: Group, decide: Decider) -> Verdict3:
    if gold.is_ordered and answer.is_ordered:
        if len(gold.items) != len(answer.items):
            return False
        brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
        if len(gold.items) == 2 and not brackets:
            return False
        return _all(_same(g, a, decide) for g, a in zip(gold.items, answer.items, strict=True))
    if gold.is_ordered != answer.is_ordered:
        ordered, other = (gold, answer) if gold.is_ordered else (answer, gold)
        if other.opening or len(ordered.items) != len(other.items):
            return _same_lists(*_as_lists(gold, answer), decide)
        if ordered.opening == "[" and ordered is gold and len(ordered.items) == 2:
            return False
        return _all(_same(g, a, decide) for g, a in zip(gold.items, answer.items, strict=True))
    return _same_lists(gold.items, answer.items, decide)


def _as_lists(gold: Group, answer: Group) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """An ordered group beside a list is one element of it."""
    left = (gold,) if gold.is_ordered else gold.items
    right = (answer,) if answer.is_ordered else answer.items
    return left, right


def _same_lists(gold: Sequence[Value], answer: Sequence[Value], decide: Decider) -> Verdict3:
    """Match every item of one list with one of the other, in any order; repeats count once."""
    gold, answer = _unnamed(gold), _unnamed(answer)
    if len(gold) != len(answer):
        gold, answer = _distinct(gold), _distinct(answer)
    if len(gold) != len(answer):
        return False
    if len(gold) == 1 and not (isinstance(gold[0], Group) and isinstance(answer[0], Group)):
        return _same(gold[0], answer[0], decide)
    undecided = False
    left = list(answer)
    for item in gold:
        results = [_same_item(item, other, decide) for other in left]
        if True in results:
            left.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_item(gold: Value, answer: Value, decide: Decider) -> Verdict3:
    """Inside a list a bare list (`p=5, q=2`) is a tuple."""
    if isinstance(gold, Group) and isinstance(answer, Group):
        if not gold.opening:
            gold = Group(_unnamed(gold.items), "(", ")")
        if not answer.opening:
            answer = Group(_unnamed(answer.items), "(", ")")
    return _same(gold, answer, decide)


def _distinct(items: Sequence[Value]) -> list[Value]:
    return list(dict.fromkeys(items))


def _unnamed(items: Sequence[Value]) -> tuple[Value, ...]:
    """`n = 2, 3, 4` and `a = 2, h = 1` are lists of values."""
    return tuple(parse(i.sides[-1]) if _assigns(i) else i for i in items)


def _assigns(value: Value) -> TypeGuard[Relation]:
    return isinstance(value, Relation) and set(value.operators) == {"="} and is_name(value.sides[0])


def _all(results: Iterable[Verdict3]) -> Verdict3:
    undecided = False
    for result in results:
        if result is False:
            return False
        undecided = undecided or result is None
    return None if undecided else True


def _same_words(gold: Value, answer: Value) -> Verdict3:
    left, right = _flat(gold), _flat(answer)
    if left == right:
        return bool(left)
    if isinstance(gold, Words) and isinstance(answer, Words):
        return False
    try:
        numbers = [to_fraction(text) for text in (left, right)]
    except ArithmeticError:
        return False
    return numbers[0] is not None and numbers[0] == numbers[1]


def _flat(value: Value) -> str:
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Leaf):
        return fold_words(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", value.text))
    return ""


def _same_matrices(gold: Value, answer: Value, decide: Decider) -> Verdict3:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(r) for r in gold.rows] != [len(r) for r in answer.rows]:
            return False
        cells = zip(itertools.chain(*gold.rows), itertools.chain(*answer.rows), strict=True)
        return _all(_same_leaves(g.text, a.text, decide) for g, a in cells)
    left, right = _as_vector(gold), _as_vector(answer)
    if left is None or right is None:
        return False
    return _same_groups(left, right, decide)


def _as_vector(value: Value) -> Group | None:
    if isinstance(value, Group) and value.opening == "(":
        return value
    if isinstance(value, Matrix) and (len(value.rows) == 1 or all(len(r) == 1 for r in value.rows)):
        return Group(tuple(itertools.chain(*value.rows)), "(", ")")
    return None


def _as_interval(value: Value, other: Value) -> Value:
    """Turn an inequality with numeric ends into its interval, unless the other side is one too."""
    if isinstance(value, Group) and any(isinstance(i, Relation) for i in value.items):
        if isinstance(other, Group) and any(isinstance(i, Group) for i in other.items):
            return Group(
                tuple(_as_interval(i, Leaf("")) for i in value.items), value.opening, value.closing
            )
        return value
    if not isinstance(value, Relation) or isinstance(other, Relation):
        return value
    return interval(value) or value


def interval(relation: Relation) -> Group | None:
    """Return the interval of `a < x <= b` or `x > a`; None when the ends are not numbers."""
    sides, operators = relation.sides, relation.operators
    if all(op in (">", "\\ge") for op in operators):
        sides = sides[::-1]
        operators = tuple({">": "<", "\\ge": "\\le"}[op] for op in operators[::-1])
    if not all(op in ("<", "\\le") for op in operators):
        return None
    strict = [op == "<" for op in operators]
    if len(sides) == 3 and _is_numeric(sides[0]) and _is_numeric(sides[2]) and is_name(sides[1]):
        ends, open_left, open_right = (sides[0], sides[2]), strict[0], strict[1]
    elif len(sides) == 2 and is_name(sides[0]) and _is_numeric(sides[1]):
        ends, open_left, open_right = ("-\\infty", sides[1]), True, strict[0]
    elif len(sides) == 2 and is_name(sides[1]) and _is_numeric(sides[0]):
        ends, open_left, open_right = (sides[0], "\\infty"), strict[0], True
    else:
        return None
    opening, closing = "(" if open_left else "[", ")" if open_right else "]"
    return Group((Leaf(ends[0]), Leaf(ends[1])), opening, closing)


def _is_numeric(text: str) -> bool:
    rest = _COMMAND.sub("", text)
    return bool(text.strip()) and not any(c.isalpha() for c in rest)


def _same_relations(gold: Value, answer: Value, decide: Decider) -> Verdict3:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(gold, answer, decide)
    if isinstance(gold, Relation):
        if set(gold.operators) == {"="} and is_name(gold.sides[0]):
            return _same(parse(gold.sides[-1]), answer, decide)
        return False
    assert isinstance(answer, Relation), answer
    if answer.operators[-1] not in ("=", "=="):
        return False
    if not is_name(answer.sides[0]) and isinstance(gold, Leaf) and gold.text.strip() == "0":
        return False
    return _same(gold, parse(answer.sides[-1]), decide)


def _two_relations(gold: Relation, answer: Relation, decide: Decider) -> Verdict3:
    equal = {"="}
    if set(gold.operators) == equal and set(answer.operators) == equal:
        if is_name(gold.sides[0]) and is_name(answer.sides[0]):
            renamed = _renamed(gold.sides[0], answer)
            if renamed is None:
                return False
            return _same(parse(gold.sides[-1]), parse(renamed), decide)
        return decide.relation(gold, answer)
    left, right = interval(gold), interval(answer)
    if left is not None and right is not None:
        names = [_variables(relation) for relation in (gold, answer)]
        return names[0] == names[1] and _same(left, right, decide)
    return decide.relation(gold, answer)


def _variables(relation: Relation) -> str:
    return "".join(c for side in relation.sides for c in _COMMAND.sub("", side) if c.isalpha())


def _renamed(name: str, answer: Relation) -> str | None:
    """Return the answer's right side in terms of the gold's argument, None for another name."""
    left, right = name.replace(" ", ""), answer.sides[0].replace(" ", "")
    if re.sub(r"[{}]", "", left).casefold() == re.sub(r"[{}]", "", right).casefold():
        return answer.sides[-1]
    pattern = re.compile(r"([a-zA-Z]+)\(([a-zA-Z])\)")
    if (g := pattern.fullmatch(left)) and (a := pattern.fullmatch(right)) and g[1] == a[1]:
        return re.sub(rf"(?<![a-zA-Z\\]){a[2]}(?![a-zA-Z])", g[2], answer.sides[-1])
    return None


def _same_leaves(gold: str, answer: str, decide: Decider) -> Verdict3:
    """Compare two expressions with their units, percent signs and bases."""
    if gold == answer:
        return bool(gold)
    left_based, right_based = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if left_based and right_based:
        return left_based.groups() == right_based.groups()
    if (left_based or right_based) and _is_numeric(gold + answer):
        return False
    ratios = [_ratio(text) for text in (gold, answer)]
    left, right = units.split(ratios[0] or gold), units.split(ratios[1] or answer)
    if not left.value or not right.value or not units.agree(left.unit, right.unit):
        return False
    if left.degrees != right.degrees and "\\pi" in (left.value + right.value):
        return decide.number(_in_radians(left), _in_radians(right))
    plain = decide.number(left.value, right.value)
    if plain is True or left.percent == right.percent:
        return plain
    if left.percent:
        return decide.number(f"({left.value})/100", right.value)
    return decide.number(left.value, f"({right.value})/100")


def _in_radians(quantity: units.Quantity) -> str:
    return f"({quantity.value})*\\pi/180" if quantity.degrees else quantity.value


def _ratio(text: str) -> str | None:
    parts = split_top(text, ":")
    if len(parts) == 2 and all(parts):
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    return None
