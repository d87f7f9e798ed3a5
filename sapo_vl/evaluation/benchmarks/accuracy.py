"""Accuracy tables over scored responses. Shares lie in [0, 1]; percentages have two decimals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypedDict

from sapo_vl.evaluation.benchmarks.protocol import Response, ScoredResponse


class TableCell(TypedDict):
    """Accuracy over the responses that have a verdict."""

    accuracy: float | None  # None: no response has a verdict
    percent: float | None
    correct: int
    total: int


def cell(verdicts: Sequence[bool | None]) -> TableCell:
    """Return accuracy and counts; responses without a verdict (None) are left out."""
    counted = [verdict for verdict in verdicts if verdict is not None]
    share = sum(counted) / len(counted) if counted else None
    percent = None if share is None else round(100 * share, 2)
    return {"accuracy": share, "percent": percent, "correct": sum(counted), "total": len(counted)}


def tables(
    scored: Sequence[ScoredResponse], keys: Sequence[str | tuple[str, str]]
) -> dict[str, dict[str, TableCell]]:
    """Return {key: {value: TableCell}}; a pair of keys gives a table of both, "a / b".

    A response counts under each of its values where it has several. A key that no response has is
    left out.
    """
    result: dict[str, dict[str, TableCell]] = {}
    for key in keys:
        groups: dict[str, list[bool | None]] = defaultdict(list)
        for item in scored:
            for value in _values(item.response, key):
                groups[value].append(item.correct)
        name = key if isinstance(key, str) else "_x_".join(key)
        if groups:
            result[name] = {value: cell(groups[value]) for value in sorted(groups, key=_order)}
    return result


def _values(response: Response, key: str | tuple[str, str]) -> list[str]:
    if isinstance(key, tuple):
        left, right = (_values(response, part) for part in key)
        return [f"{a} / {b}" for a in left for b in right]
    value = response.meta[key] if key in response.meta else getattr(response, key, None)
    if value is None or value == "":
        return []
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def _order(value: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, then texts."""
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)
