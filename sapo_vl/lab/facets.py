"""How a grid is laid out, decided by the settings that vary in it.

Updates per rollout batch are the columns and the learning rate the rows. Whatever else varies
(objective, gate, temperatures, then any other key) makes the arms, one colour each. Arms that are
too many for one panel get a panel each where the grid has few places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapo_vl.lab.results import REFERENCE, Group, Settings

ARM_KEYS = ("objective", "gate", "tau_pos", "tau_neg")
COLUMN, ROW = "updates", "lr"
IN_ONE_PANEL = 4  # arms whose bands can still be told apart
PLACES_BY_ARM = 2  # places of a grid that is drawn with a panel per arm

NAMES = {
    "lr": "learning rate",
    "updates": "updates per rollout batch",
    "clip": "gradient clipping",
    "tau_pos": "τ of A > 0",
    "tau_neg": "τ of A < 0",
}
SHORT = {"tau_pos": "τ+", "tau_neg": "τ−", "lr": "lr"}


@dataclass(frozen=True)
class Facets:
    """Which settings of a grid are rows, columns and colours."""

    row: str | None  # None where the setting does not vary
    column: str | None
    color: tuple[str, ...]  # together they make the arm
    by_arm: bool  # a panel per arm, the reference behind each


@dataclass(frozen=True)
class Layout:
    """A grid's groups in the order in which tables and figures show them."""

    facets: Facets
    groups: list[Group]
    labels: list[str]  # of each group's arm
    arms: list[str]  # distinct labels in order
    rows: list[Any]  # values of the row's setting; [None] where none varies
    columns: list[Any]


def varying(settings: Sequence[Settings]) -> list[str]:
    """Return the keys that don't have one value in all settings; a missing key is a value."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len(distinct([one.get(key) for one in settings])) > 1]


def facets(settings: Sequence[Settings]) -> Facets:
    """Decide rows, columns and colours from the settings of a grid's groups."""
    vary = varying(settings)
    others = [key for key in vary if key not in (ROW, COLUMN, *ARM_KEYS)]
    color = tuple([key for key in ARM_KEYS if key in vary] + others)
    arms = distinct([[one.get(key) for key in color] for one in settings])
    places = distinct([[one.get(ROW), one.get(COLUMN)] for one in settings])
    return Facets(
        row=ROW if ROW in vary else None,
        column=COLUMN if COLUMN in vary else None,
        color=color,
        by_arm=len(arms) > IN_ONE_PANEL and len(places) <= PLACES_BY_ARM,
    )


def layout(groups: Sequence[Group]) -> Layout:
    """Return one grid's groups in order: by place, then by arm, the paper's form first."""
    chosen = facets([member.settings for member in groups])
    labels = {id(member): arm_label(member, groups, chosen) for member in groups}
    by_arm = sorted(groups, key=lambda member: _arm_order(member, chosen))
    arms = list(dict.fromkeys(labels[id(member)] for member in by_arm))
    ordered = sorted(
        groups,
        key=lambda member: (
            _sortable(member.settings.get(COLUMN)),
            _sortable(member.settings.get(ROW)),
            arms.index(labels[id(member)]),
        ),
    )
    return Layout(
        chosen,
        ordered,
        [labels[id(member)] for member in ordered],
        arms,
        _values(ordered, chosen.row),
        _values(ordered, chosen.column),
    )


def _arm_order(member: Group, chosen: Facets) -> tuple[Any, ...]:
    """Names as the paper has them come first; numbers are in their own order."""
    values = [(key, member.settings.get(key)) for key in chosen.color]
    words = [
        (isinstance(value, str) and value != REFERENCE.get(key), _sortable(value))
        for key, value in values
    ]
    return (*words, member.arm)


def arm_label(member: Group, groups: Sequence[Group], chosen: Facets) -> str:
    """Return a name that tells a group's arm from the others of its grid.

    That is the arm's own name, and the settings that vary among the arms of that name.
    """
    same = [g.settings for g in groups if g.arm == member.arm]
    vary = [key for key in varying(same) if key in chosen.color]
    keys = [key for key in chosen.color if key in vary]
    parts = [f"{SHORT.get(key, key)} {say(key, member.settings.get(key))}" for key in keys]
    if parts and len({g.arm for g in groups}) == 1:
        return ", ".join(parts)
    return ", ".join([member.arm, *parts])


def say(key: str, value: Any) -> str:
    """Return a setting's value as a reader writes it: 3e-4, 1.05, on."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        if key == ROW and value:
            mantissa, exponent = f"{value:e}".split("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def distinct(values: Sequence[Any]) -> list[Any]:
    """Return the values without repeats, in order; lists and dicts may be among them."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def _values(groups: Sequence[Group], key: str | None) -> list[Any]:
    if key is None:
        return [None]
    return sorted(distinct([member.settings.get(key) for member in groups]), key=_sortable)


def _sortable(value: Any) -> tuple[bool, float, str]:
    if isinstance(value, int | float):
        return (False, float(value), "")
    return (True, 0.0, str(value))
