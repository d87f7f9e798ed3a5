"""Compare expressions without further structure: numbers with units, bases, percents, words."""

from __future__ import annotations

import re
from typing import Protocol

from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.answer_values import (
    Figure,
    Group,
    Leaf,
    Pair,
    Relation,
    Tristate,
    Value,
    Words,
    any_of,
)
from sapo_vl.rewards.parsing.phrases import fold_words, saying
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.rewards.parsing.relations import is_numeric

_BASED = re.compile(r"([0-9A-Z]+)\s*_\s*\{?\s*(\d+)\s*\}?")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")


class Decider(Protocol):
    """Decides whether two expressions are equal."""

    def number(self, gold: str, answer: str) -> Tristate:
        """Compare two expressions without units."""

    def relation(self, gold: Relation, answer: Relation) -> Tristate:
        """Compare two equations or inequalities that are not plain assignments."""

    def rounding(self, exact: str, rounded: str) -> Tristate:
        """Whether `rounded` is `exact` to the digits that it has."""


def same_leaves(gold: str, answer: str, decider: Decider) -> Tristate:
    """Compare two expressions with their units, percent signs and bases."""
    if gold == answer:
        return bool(gold)
    gold_based, answer_based = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if gold_based and answer_based:
        return gold_based.groups() == answer_based.groups()
    if (gold_based or answer_based) and is_numeric(gold + answer):
        return False
    return any_of(decider.number(*pair) for pair in units.readings(gold, answer))


def same_words(gold: Value, answer: Value) -> Tristate:
    """Compare answers of which at least one is words; a number word equals its number."""
    gold_words, answer_words = plain_words(gold), plain_words(answer)
    if gold_words == answer_words:
        return bool(gold_words)
    if isinstance(gold, Words) and isinstance(answer, Words):
        return False
    numbers = [_fraction(text) for text in (gold_words, answer_words)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def plain_words(value: Value) -> str:
    """Return the folded words of a value; empty when it has another structure."""
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Leaf):
        return saying(fold_words(_TEXT.sub(r"\1", value.text)))
    return ""


def distinct(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the items without those that have the same exact value or text as an earlier one."""
    kept: dict[object, Value] = {}
    for item in items:
        number = _exact(item.text) if isinstance(item, Leaf) else None
        kept.setdefault(item if number is None else number, item)
    return tuple(kept.values())


def is_one_value(group: Group, decider: Decider) -> bool:
    """Whether a list is one value in two spellings: `1/3 or 0.33`."""
    if group.joint != "or" or len(group.items) != 2:
        return False
    exact, rounded = group.items
    if not isinstance(exact, Leaf) or not isinstance(rounded, Leaf) or "." not in rounded.text:
        return False
    return decider.rounding(exact.text, rounded.text) is True


def is_rounded(exact: str, rounded: str, decider: Decider) -> Tristate:
    """Whether a rounded value with its unit belongs to the exact one."""
    return decider.rounding(units.split(exact).value, units.split(rounded).value)


def as_figure(value: Value) -> Figure | None:
    """Return the figure of a value; a run of letters (`ABC`) names one beside a figure."""
    if isinstance(value, Figure):
        return value
    text = value.text.upper() if isinstance(value, Words | Leaf) else ""
    return Figure("", tuple(text)) if text.isalpha() and len(text) <= 8 else None


def figure_text(value: Value) -> str:
    """Return the expression that a figure is beside a number or a product: `AB` for a segment."""
    if isinstance(value, Figure) and value.kind in ("", "vector"):
        points = "".join(value.points)
        return f"\\vec{{{points}}}" if value.kind else points
    return value.text if isinstance(value, Leaf | Pair) else ""


def _exact(text: str) -> object:
    """Return the exact value of a number or percentage, else None."""
    quantity = units.split(text)
    if not quantity.percent:
        return _fraction(text)
    return _fraction(f"({quantity.value})/100")


def _fraction(text: str) -> object:
    try:
        return to_fraction(text)
    except OverLimitError:
        return None
