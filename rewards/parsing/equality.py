"""Compare two answers structurally, part by part.

`same(gold, answer, decider)` parses two cleaned texts (latex.py) into trees (answer_tree.py) and
compares them. Leaves go to the `decider`: exact arithmetic only in the main process, which may
leave them undecided; arithmetic and sympy in a worker. The result is True, False or None
(undecided).

Conventions (docs/verifiers.md has all of them): a bare list and a set are unordered, a tuple is
ordered; `1,2` matches `(1,2)` in that order; `x = 5` matches `5`, `y = 5` does not match `x = 5`;
an inequality matches its interval; `\\pm` stands for both values; a vector matches the tuple of
its entries.
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
    Tristate,
    Value,
    Words,
    fold_words,
    is_name,
    parse,
    split_top,
)
from sapo_vl.rewards.parsing.rationals import to_fraction

_BASED = re.compile(r"([0-9A-Z]+)\s*_\s*\{?\s*(\d+)\s*\}?")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_DIGIT_GAP = re.compile(r"\d \d")
_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d{1,2})$")
_INDIAN = re.compile(r"[+-]?\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?")
_FUNCTION_OF = re.compile(r"([a-zA-Z]+)\(([a-zA-Z])\)")


class Decider(Protocol):
    """Decides whether two leaves are equal."""

    def number(self, gold: str, answer: str) -> Tristate:
        """Compare two expressions without units."""

    def relation(self, gold: Relation, answer: Relation) -> Tristate:
        """Compare two equations or inequalities that are not plain assignments."""


def same(gold: str, answer: str, decider: Decider) -> Tristate:
    """Whether two cleaned texts are the same answer; None when the decider can't tell."""
    if not answer.strip() or not gold.strip():
        return False
    if gold == answer or gold.replace(" ", "") == answer.replace(" ", ""):
        if " " not in answer or gold.split() == answer.split():
            return True
        gaps = [bool(_DIGIT_GAP.search(text)) for text in (gold, answer)]
        return gaps[0] == gaps[1]  # `4 2` isn't `42`
    gold_tree, answer_tree = parse(gold), parse(answer)
    result = _same(gold_tree, answer_tree, decider)
    one_is_leaf = isinstance(gold_tree, Leaf) != isinstance(answer_tree, Leaf)
    if result is not True and one_is_leaf and "," in gold + answer:
        result = _same_other_reading(gold, answer, isinstance(gold_tree, Leaf), decider) or result
    return result


def _same_other_reading(gold: str, answer: str, gold_is_leaf: bool, decider: Decider) -> Tristate:
    """Compare again with other meanings of the comma, when one side is a leaf and one a list.

    `100,200` may be one number or two; `1,22` may be a decimal; `1,00,000` is grouped as in India.
    """
    as_list = (
        (gold.replace(",", ", "), answer) if gold_is_leaf else (gold, answer.replace(",", ", "))
    )
    if as_list != (gold, answer) and _same(parse(as_list[0]), parse(as_list[1]), decider):
        return True
    if _INDIAN.fullmatch(answer if gold_is_leaf else gold):
        return _same(parse(gold.replace(",", "")), parse(answer.replace(",", "")), decider)
    gold_decimal, answer_decimal = (_DECIMAL_COMMA.sub(r"\1.\2", text) for text in (gold, answer))
    is_changed = (gold_decimal, answer_decimal) != (gold, answer)
    if is_changed and not isinstance(parse(gold_decimal), Group):
        return _same(parse(gold_decimal), parse(answer_decimal), decider)
    return None


def _same(gold: Value, answer: Value, decider: Decider) -> Tristate:
    gold, answer = _as_interval(gold, answer), _as_interval(answer, gold)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relations(gold, answer, decider)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _same_words(gold, answer)
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return _same_leaves(gold.text, answer.text, decider)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _same_matrices(gold, answer, decider)
    for value, counterpart in ((gold, answer), (answer, gold)):
        if isinstance(value, Group) and value.is_ordered and not isinstance(counterpart, Group):
            return False
    gold_group = gold if isinstance(gold, Group) else Group((gold,))
    answer_group = answer if isinstance(answer, Group) else Group((answer,))
    return _same_groups(gold_group, answer_group, decider)


def _same_groups(gold: Group, answer: Group, decider: Decider) -> Tristate:
    if gold.is_ordered and answer.is_ordered:
        if len(gold.items) != len(answer.items):
            return False
        same_brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
        if len(gold.items) == 2 and not same_brackets:  # two intervals
            return False
        return _all(_same(g, a, decider) for g, a in zip(gold.items, answer.items, strict=True))
    if gold.is_ordered != answer.is_ordered:
        ordered, unordered = (gold, answer) if gold.is_ordered else (answer, gold)
        if unordered.opening or len(ordered.items) != len(unordered.items):
            # an ordered group beside a list is one element of it
            gold_items = (gold,) if gold.is_ordered else gold.items
            answer_items = (answer,) if answer.is_ordered else answer.items
            return _same_lists(gold_items, answer_items, decider)
        if ordered.opening == "[" and ordered is gold and len(ordered.items) == 2:
            return False
        return _all(_same(g, a, decider) for g, a in zip(gold.items, answer.items, strict=True))
    return _same_lists(gold.items, answer.items, decider)


def _same_lists(gold: Sequence[Value], answer: Sequence[Value], decider: Decider) -> Tristate:
    """Match the items one to one, in any order; where the lengths differ, without duplicates."""
    gold, answer = _drop_names(gold), _drop_names(answer)
    if len(gold) != len(answer):
        gold, answer = list(dict.fromkeys(gold)), list(dict.fromkeys(answer))
    if len(gold) != len(answer):
        return False
    if len(gold) == 1 and not (isinstance(gold[0], Group) and isinstance(answer[0], Group)):
        return _same(gold[0], answer[0], decider)
    undecided = False
    unmatched = list(answer)
    for item in gold:
        results = [_same_item(item, candidate, decider) for candidate in unmatched]
        if True in results:
            unmatched.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_item(gold: Value, answer: Value, decider: Decider) -> Tristate:
    """Compare two items of lists, in which a bare list (`p=5, q=2`) is a tuple."""
    if isinstance(gold, Group) and isinstance(answer, Group):
        if not gold.opening:
            gold = Group(_drop_names(gold.items), "(", ")")
        if not answer.opening:
            answer = Group(_drop_names(answer.items), "(", ")")
    return _same(gold, answer, decider)


def _drop_names(items: Sequence[Value]) -> tuple[Value, ...]:
    """Reduce assignments to values: `n = 2, 3, 4` and `a = 2, h = 1` are lists of values."""
    return tuple(parse(i.sides[-1]) if _is_assignment(i) else i for i in items)


def _is_assignment(value: Value) -> TypeGuard[Relation]:
    return isinstance(value, Relation) and set(value.operators) == {"="} and is_name(value.sides[0])


def _all(results: Iterable[Tristate]) -> Tristate:
    """Three-valued `all`."""
    undecided = False
    for result in results:
        if result is False:
            return False
        undecided = undecided or result is None
    return None if undecided else True


def _same_words(gold: Value, answer: Value) -> Tristate:
    gold_words, answer_words = _plain_words(gold), _plain_words(answer)
    if gold_words == answer_words:
        return bool(gold_words)
    if isinstance(gold, Words) and isinstance(answer, Words):
        return False
    try:
        numbers = [to_fraction(text) for text in (gold_words, answer_words)]
    except ArithmeticError:
        return False
    return numbers[0] is not None and numbers[0] == numbers[1]


def _plain_words(value: Value) -> str:
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Leaf):
        return fold_words(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", value.text))
    return ""


def _same_matrices(gold: Value, answer: Value, decider: Decider) -> Tristate:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(r) for r in gold.rows] != [len(r) for r in answer.rows]:
            return False
        cells = zip(itertools.chain(*gold.rows), itertools.chain(*answer.rows), strict=True)
        return _all(_same_leaves(g.text, a.text, decider) for g, a in cells)
    gold_vector, answer_vector = _as_vector(gold), _as_vector(answer)
    if gold_vector is None or answer_vector is None:
        return False
    return _same_groups(gold_vector, answer_vector, decider)


def _as_vector(value: Value) -> Group | None:
    if isinstance(value, Group) and value.opening == "(":
        return value
    if isinstance(value, Matrix) and (len(value.rows) == 1 or all(len(r) == 1 for r in value.rows)):
        return Group(tuple(itertools.chain(*value.rows)), "(", ")")
    return None


def _as_interval(value: Value, counterpart: Value) -> Value:
    """Convert an inequality with numeric ends to its interval, unless both sides are relations."""
    if isinstance(value, Group) and any(isinstance(i, Relation) for i in value.items):
        if isinstance(counterpart, Group) and any(isinstance(i, Group) for i in counterpart.items):
            return Group(
                tuple(_as_interval(i, Leaf("")) for i in value.items), value.opening, value.closing
            )
        return value
    if not isinstance(value, Relation) or isinstance(counterpart, Relation):
        return value
    return interval(value) or value


def interval(relation: Relation) -> Group | None:
    """Return the interval of `a < x <= b` or `x > a`; None when an end isn't a number."""
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
    return bool(text.strip()) and not any(c.isalpha() for c in _COMMAND.sub("", text))


def _same_relations(gold: Value, answer: Value, decider: Decider) -> Tristate:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(gold, answer, decider)
    if isinstance(gold, Relation):
        if _is_assignment(gold):
            return _same(parse(gold.sides[-1]), answer, decider)
        return False
    assert isinstance(answer, Relation), answer
    if answer.operators[-1] not in ("=", "=="):
        return False
    if not is_name(answer.sides[0]) and isinstance(gold, Leaf) and gold.text.strip() == "0":
        return False
    return _same(gold, parse(answer.sides[-1]), decider)


def _two_relations(gold: Relation, answer: Relation, decider: Decider) -> Tristate:
    if _is_assignment(gold) and _is_assignment(answer):
        renamed = _with_argument_of(gold.sides[0], answer)
        if renamed is None:
            return False
        return _same(parse(gold.sides[-1]), parse(renamed), decider)
    gold_interval, answer_interval = interval(gold), interval(answer)
    if gold_interval is not None and answer_interval is not None:
        same_variables = _variables(gold) == _variables(answer)
        return same_variables and _same(gold_interval, answer_interval, decider)
    return decider.relation(gold, answer)


def _variables(relation: Relation) -> str:
    return "".join(c for side in relation.sides for c in _COMMAND.sub("", side) if c.isalpha())


def _with_argument_of(gold_name: str, answer: Relation) -> str | None:
    """Return the answer's right side with the argument renamed as in the gold's left side.

    `f(m) = m+1` gives `n+1` for `f(n)`; None when the two left sides are different names.
    """
    name, answer_name = gold_name.replace(" ", ""), answer.sides[0].replace(" ", "")
    if re.sub(r"[{}]", "", name).casefold() == re.sub(r"[{}]", "", answer_name).casefold():
        return answer.sides[-1]
    g, a = _FUNCTION_OF.fullmatch(name), _FUNCTION_OF.fullmatch(answer_name)
    if g and a and g[1] == a[1]:
        return re.sub(rf"(?<![a-zA-Z\\]){a[2]}(?![a-zA-Z])", g[2], answer.sides[-1])
    return None


def _same_leaves(gold: str, answer: str, decider: Decider) -> Tristate:
    """Compare two expressions with their units, percent signs and bases."""
    if gold == answer:
        return bool(gold)
    gold_based, answer_based = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if gold_based and answer_based:
        return gold_based.groups() == answer_based.groups()
    if (gold_based or answer_based) and _is_numeric(gold + answer):
        return False
    pairs = units.readings(_ratio_as_fraction(gold), _ratio_as_fraction(answer))
    return _any(decider.number(left, right) for left, right in pairs)


def _any(results: Iterable[Tristate]) -> Tristate:
    """Three-valued `any`."""
    undecided = False
    for result in results:
        if result is True:
            return True
        undecided = undecided or result is None
    return None if undecided else False


def _ratio_as_fraction(text: str) -> str:
    """Return `20:3` as a fraction, any other text unchanged."""
    parts = split_top(text, ":")
    if len(parts) == 2 and all(parts):
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    return text
