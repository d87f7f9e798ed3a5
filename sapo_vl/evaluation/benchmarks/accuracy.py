"""Accuracy tables over scored responses. Shares lie in [0, 1]; percentages have two decimals.

Accuracy is the mean over problems of the share of a problem's right samples, so that a problem with
more samples than others does not count more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypedDict

from sapo_vl.evaluation.benchmarks.protocol import Response, ScoredResponse
from sapo_vl.evaluation.stats import group_verdicts


class TableCell(TypedDict):
    """Accuracy over the responses that have a verdict."""

    accuracy: float | None  # mean over problems; None: no response has a verdict
    percent: float | None
    correct: int  # responses
    total: int  # responses with a verdict


def verdicts(scored: Sequence[ScoredResponse]) -> list[tuple[str, bool | None]]:
    """Return (problem, verdict) of every response; the runs of a model have problems apart."""
    return [(f"{item.response.run}\n{item.response.key}", item.correct) for item in scored]


def cell(pairs: Iterable[tuple[str, bool | None]]) -> TableCell:
    """Return accuracy and counts of (problem, verdict) pairs; None, no verdict, is left out."""
    groups = list(group_verdicts(pairs).values())
    share = sum(sum(group) / len(group) for group in groups) / len(groups) if groups else None
    percent = None if share is None else round(100 * share, 2)
    return {
        "accuracy": share,
        "percent": percent,
        "correct": sum(map(sum, groups)),
        "total": sum(map(len, groups)),
    }


def tables(
    scored: Sequence[ScoredResponse], keys: Sequence[str | tuple[str, str]]
) -> dict[str, dict[str, TableCell]]:
    """Return {key: {value: TableCell}}; a pair of keys gives a table of both, "a / b".

    A response counts under each of its values where it has several. A key that no response has is
    left out.
    """
    result: dict[str, dict[str, TableCell]] = {}
    for key in keys:
        groups: dict[str, list[ScoredResponse]] = defaultdict(list)
        for item in scored:
            for value in _values(item.response, key):
                groups[value].append(item)
        name = key if isinstance(key, str) else "_x_".join(key)
        if groups:
            result[name] = {
                value: cell(verdicts(groups[value])) for value in sorted(groups, key=_order)
            }
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
