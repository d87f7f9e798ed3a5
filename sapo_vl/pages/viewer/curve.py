"""The curve over a run's steps as SVG coordinates: accuracy and reward, with steps to click."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sapo_vl.errors import DataError
from sapo_vl.pages.viewer.files import RolloutFiles
from sapo_vl.runs import metrics

WIDTH, HEIGHT = 1000, 100
"""Units of the drawing, which is stretched to the space that a page has."""

SERIES = (("accuracy", "accuracy"), ("reward", "reward/mean"))
"""Name and key of metrics.jsonl of each line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline."""

    name: str  # "accuracy" or "reward"
    run: int  # 0, or 1 for the run it is compared with
    points: str  # as SVG's attribute wants them


@dataclass(frozen=True, slots=True)
class Mark:
    """A step with rollouts: the strip of the drawing that opens it."""

    step: int
    x: float  # of the step itself
    left: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """All that the drawing shows."""

    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[str, str, str]  # labels of the top, the middle and the bottom
    first: int
    last: int
    note: str  # why lines are missing


def curve(runs: Sequence[RolloutFiles], steps: Sequence[int]) -> Curve:
    """Return the curve of the first run, with the lines of the others and `steps` to click."""
    rows, notes = [], []
    for files in runs:
        try:
            rows.append([r for r in metrics.read(files.run_dir) if r.get("phase") == "train"])
        except DataError as error:
            rows.append([])
            notes.append(str(error))
    points = [[_points(own, key) for _, key in SERIES] for own in rows]
    if not points[0][0] and not notes:
        notes.append("metrics.jsonl has no training steps: the curve has no lines")
    known = [*steps, *(step for own in points for series in own for step, _ in series)]
    first, last = min(known), max(known)
    values = [value for own in points for series in own for _, value in series]
    low, high = min([0.0, *values]), max([1.0, *values])

    def x(step: float) -> float:
        share = (step - first) / (last - first) if last > first else 0.5
        return round(share * WIDTH, 1)

    def y(value: float) -> float:
        return round(HEIGHT * (high - value) / (high - low), 1)

    lines = tuple(
        Line(name, run, " ".join(f"{x(step)},{y(value)}" for step, value in series))
        for run, own in enumerate(points)
        for (name, _), series in zip(SERIES, own, strict=True)
        if series
    )
    edges = [(a + b) / 2 for a, b in pairwise(steps)]
    bounds = [x(first), *map(x, edges), x(last)]
    if first == last:
        bounds = [0, WIDTH]
    marks = tuple(
        Mark(step, x(step), a, round(b - a, 1), _title(step, points[0]))
        for step, (a, b) in zip(steps, pairwise(bounds), strict=True)
    )
    labels = (f"{high:g}", f"{(low + high) / 2:g}", f"{low:g}")
    return Curve(lines, marks, labels, first, last, "; ".join(notes))


def _points(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return (step, value) of the rows that have a finite value."""
    return [
        (int(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row.get("step"), int)
        and isinstance(row.get(key), int | float)
        and math.isfinite(row[key])
    ]


def _title(step: int, series: Sequence[Sequence[tuple[int, float]]]) -> str:
    parts = [f"step {step}"]
    for (name, _), points in zip(SERIES, series, strict=True):
        parts += [f"{name} {value:.3f}" for at, value in points if at == step]
    return ", ".join(parts)
