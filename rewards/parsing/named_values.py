"""Lists whose values have names: `x = 3, y = 4`, `A(1,2), B(3,4)`, `length: 8, width: 5`.

Names that differ only in their index (`x_1`, `x_2`), or not at all (`x = 1 or x = 2`), name several
values of one unknown: those are matched in any order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sapo_vl.rewards.parsing.answer_tree import parse
from sapo_vl.rewards.parsing.answer_values import Approximation, Group, Named, Value
from sapo_vl.rewards.parsing.relations import base_name, canonical_name, is_assignment


@dataclass(frozen=True, slots=True)
class NamedValues:
    """The values of a list with their names, in the order in which they are written."""

    names: tuple[str, ...]  # canonical
    values: tuple[Value, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the names tell the values apart."""
        return len({base_name(name) for name in self.names}) > 1

    def in_order(self) -> tuple[Value, ...]:
        """Return the values in the order of neighbouring letters (x, y, z), else as written."""
        letters = sorted(self.names)
        is_run = all(len(name) == 1 for name in letters) and "".join(letters) in _ALPHABET
        order = sorted(range(len(self.names)), key=lambda i: self.names[i]) if is_run else None
        return tuple(self.values[i] for i in order) if order else self.values


_ALPHABET = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TUPLE_OF_NAMES = re.compile(
    r"\s*\(\s*([A-Za-z](?:_\{?\w\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w\}?)?)+)\s*\)\s*"
)


@lru_cache(maxsize=8192)
def named_values(group: Group) -> NamedValues | None:
    """Return the named values of a list, or None unless every item has a name."""
    if group.is_ordered or not group.items:
        return None
    names, values = [], []
    for item in group.items:
        if is_assignment(item):
            name, value = item.sides[0], parse(item.sides[-1])
        elif isinstance(item, Named):
            name, value = item.name, item.value
        elif isinstance(item, Approximation) and item.name:
            name, value = item.name, Approximation("", item.exact, item.rounded)
        else:
            return None
        names.append(canonical_name(name))
        values.append(value)
    return NamedValues(tuple(names), tuple(values))


def one_by_one(value: Value) -> Value:
    """Return `(x, y) = (3, 4)` as the list x = 3, y = 4; any other value as it is."""
    if not is_assignment(value):
        return value
    match = _TUPLE_OF_NAMES.fullmatch(value.sides[0])
    values = parse(value.sides[-1])
    if match is None or not isinstance(values, Group):
        return value
    names = [name.strip() for name in match[1].split(",")]
    if len(names) != len(values.items):
        return value
    return Group(tuple(map(Named, names, values.items)))


def match_names(gold: NamedValues, answer: NamedValues) -> list[tuple[Value, Value]] | None:
    """Pair the values by name; empty when the names differ, None where they tell nothing apart."""
    if not gold.is_ordered and not answer.is_ordered:
        same_base = {base_name(name) for name in gold.names} == {
            base_name(name) for name in answer.names
        }
        return None if same_base else []
    for fold in (str, str.casefold):
        gold_names, answer_names = ([fold(name) for name in side.names] for side in (gold, answer))
        if len(set(gold_names)) < len(gold_names) or sorted(gold_names) != sorted(answer_names):
            continue
        by_name = dict(zip(answer_names, answer.values, strict=True))
        return [(value, by_name[n]) for n, value in zip(gold_names, gold.values, strict=True)]
    return []
