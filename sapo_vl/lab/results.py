"""The laboratory's numbers: OUT/cells/*/result.json read, grouped by setting, and summarised.

Cells that differ only in their seed are one group. A figure of a cell is one number (`MEASURES`); a
group's is the mean over its seeds with a 95 % interval of Student's t. Differences from the
reference are taken seed by seed, so that what two cells of one seed share cancels.

`export` writes OUT/summary.json (all that the page's tables show, and the curves) and OUT/cells.csv
(one line a cell). No number is judged here: whether a difference matters is the reader's to say.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.config import SapoConfig
from sapo_vl.errors import DataError

Settings = dict[str, Any]

WINDOW = 10  # training steps of a final or best accuracy
REFERENCE: Settings = {
    "objective": "sapo",
    "gate": "sigmoid",
    **SapoConfig().model_dump(include={"tau_pos", "tau_neg"}),
    "mismatch": "none",
    "correction": True,
    "experts": 0,
}
"""SAPO as the paper has it, on a dense model whose sampler is the learner. Every other setting
(updates, learning rate, clipping) is the place where an arm is run."""

FAMILIES = (("objective", "gate", "tau_pos", "tau_neg"), ("correction",), ("mismatch",),
            ("experts",))  # fmt: skip
"""What a group may depart in from `REFERENCE`, in the order in which a comparison undoes it."""

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t at 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook of
Statistical Methods, table 1.3.6.7.2)."""


@dataclass(frozen=True)
class Cell:
    """One finished run: a setting at a seed."""

    name: str
    grid: str
    arm: str
    settings: Settings
    seed: int
    rows: list[dict[str, Any]]  # one a training step, with "step"; a value may be missing
    before: float | None  # held-out accuracy before training
    after: float | None  # and after; None where an error ended the cell
    seconds: float
    error: str | None  # what ended the cell early
    alarm_step: int | None  # of the collapse detector; None where it never fired
    alarm_rule: str | None

    def series(self, key: str) -> list[tuple[int, float]]:
        """Return the recorded (step, value) pairs of a quantity."""
        pairs = ((row["step"], number(row.get(key))) for row in self.rows)
        return [(step, value) for step, value in pairs if value is not None]


@dataclass(frozen=True)
class Measure:
    """A figure of a cell, computed from one quantity's recorded values."""

    label: str
    key: str  # of the rows
    of: Callable[[list[float]], float]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval, mean - half to mean + half."""

    mean: float
    half: float | None  # None with fewer than two seeds
    n: int  # seeds that have the figure


@dataclass(frozen=True)
class Group:
    """The cells of one arm at one setting, by seed."""

    grid: str
    arm: str
    settings: Settings
    cells: tuple[Cell, ...]

    def figures(self, name: str) -> dict[int, float]:
        """Return the figure `name` (see `figure`) of each seed that has it."""
        values = {cell.seed: figure(cell, name) for cell in self.cells}
        return {seed: value for seed, value in values.items() if value is not None}

    def estimate(self, name: str) -> Estimate | None:
        """Return the figure's mean and interval over seeds; None where no seed has it."""
        return estimate(list(self.figures(name).values()))


@dataclass(frozen=True)
class Curve:
    """A quantity over steps: per step the mean over the seeds that recorded it, and its interval.

    `low` and `high` are None at a step that only one seed has.
    """

    steps: list[int]
    mean: list[float]
    low: list[float | None]
    high: list[float | None]
    n: list[int]


def final(values: list[float]) -> float:
    """Return the mean of the last `WINDOW` values, or of all where there are fewer."""
    return mean(values[-WINDOW:])


def best(values: list[float]) -> float:
    """Return the largest mean of `WINDOW` values in a row, or of all where there are fewer."""
    windows = range(max(1, len(values) - WINDOW + 1))
    return max(mean(values[start : start + WINDOW]) for start in windows)


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return math.fsum(values) / len(values)


MEASURES: dict[str, Measure] = {
    "final": Measure("final accuracy", "accuracy", final),
    "best": Measure("best accuracy", "accuracy", best),
    "gate_mean": Measure("mean gate", "gate/mean", mean),
    "gate_p01": Measure("gate, 1st percentile", "gate/p01", mean),
    "below_half_pos": Measure("gate < 0.5, A > 0", "gate/below_0.5_pos", mean),
    "below_half_neg": Measure("gate < 0.5, A < 0", "gate/below_0.5_neg", mean),
    "max_wr_pos": Measure("max w·r, A > 0", "gate/max_wr_pos", max),
    "max_wr_neg": Measure("max w·r, A < 0", "gate/max_wr_neg", max),
    "gap_pos": Measure("gate gap, A > 0", "gate/gap_pos", mean),
    "bound_pos": Measure("its bound, A > 0", "gate/bound_pos", mean),
    "gap_neg": Measure("gate gap, A < 0", "gate/gap_neg", mean),
    "bound_neg": Measure("its bound, A < 0", "gate/bound_neg", mean),
    "ess": Measure("effective sample size", "ratio/ess", mean),
    "ratio_kl": Measure("KL of the ratio", "ratio/kl", mean),
    "mismatch_kl": Measure("KL of the mismatch", "mismatch/kl", mean),
    "router_changed": Measure("router's choices changed", "router/changed", mean),
    "entropy_final": Measure("final entropy", "entropy", final),
    "length_final": Measure("final length", "response/length", final),
}
"""A gate statistic is the mean over all training steps; max w·r is the largest of any step."""

CURVES = ("accuracy", "entropy", "gate/mean", "mismatch/kl", "router/changed")


def number(value: object) -> float | None:
    """Return a finite number as a float, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def figure(cell: Cell, name: str) -> float | None:
    """Return a cell's "before", "after" or a measure; None where nothing was recorded for it."""
    if name in ("before", "after"):
        return cell.before if name == "before" else cell.after
    measure = MEASURES[name]
    values = [value for _, value in cell.series(measure.key)]
    return measure.of(values) if values else None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return mean and 95 % t-interval, t * s / sqrt(n) with s over n - 1; None of no values.

    Beyond 30 degrees of freedom t stays at its value for 30, which is at most 4 % too wide.
    """
    n = len(values)
    if n == 0:
        return None
    middle = mean(values)
    if n == 1:
        return Estimate(middle, None, 1)
    variance = math.fsum((value - middle) ** 2 for value in values) / (n - 1)
    t = T_975[min(n - 1, len(T_975)) - 1]
    return Estimate(middle, t * math.sqrt(variance / n), n)


def load(out: Path) -> list[Cell]:
    """Return the finished cells of OUT, by name; a cell without result.json is passed over.

    Raises DataError for a file that can't be read as a result, for two cells of one setting and
    seed, and where no cell is finished.
    """
    paths = sorted((out / "cells").rglob("result.json"))
    cells = [_cell(path) for path in paths]
    if not cells:
        raise DataError(f"{out}/cells holds no finished cell (no result.json)")
    seen: dict[tuple[str, int], Path] = {}
    for cell, path in zip(cells, paths, strict=True):
        other = seen.setdefault((_group_key(cell), cell.seed), path)
        if other != path:
            raise DataError(f"{path} and {other} hold the same setting and seed {cell.seed}")
    return cells


def unfinished(out: Path) -> list[str]:
    """Return the names of the folders of cells that were begun and have no result yet."""
    cells = out / "cells"
    folders = sorted([*cells.glob("*seed[0-9]*"), *cells.glob("*/seed[0-9]*")])
    return [
        folder.relative_to(cells).as_posix()
        for folder in folders
        if folder.is_dir() and not (folder / "result.json").exists()
    ]


def _cell(path: Path) -> Cell:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        described, alarm = result["cell"], result.get("alarm") or {}
        cell = Cell(
            name=str(described["name"]),
            grid=str(described["grid"]),
            arm=str(described["arm"]),
            settings=dict(described["settings"]),
            seed=int(described["seed"]),
            rows=[{**row, "step": int(row["step"])} for row in result["rows"]],
            before=number(result.get("before")),
            after=number(result.get("after")),
            seconds=number(result.get("seconds")) or 0.0,
            error=str(result["error"]) if result.get("error") else None,
            alarm_step=int(alarm["step"]) if alarm else None,
            alarm_rule=str(alarm.get("rule", "alarm")) if alarm else None,
        )
    except KeyError as problem:
        raise DataError(f"{path} is not a cell's result: it lacks {problem}") from problem
    except (ValueError, TypeError, AttributeError) as problem:
        raise DataError(
            f"{path} is not a cell's result ({problem}); delete it and run the cell again"
        ) from problem
    return cell


def group(cells: Sequence[Cell]) -> list[Group]:
    """Return the cells in groups of one grid, arm and setting, in the order of first sight."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(_group_key(cell), []).append(cell)
    return [
        Group(first.grid, first.arm, first.settings, tuple(sorted(same, key=lambda c: c.seed)))
        for same in found.values()
        for first in same[:1]
    ]


def _group_key(cell: Cell) -> str:
    return json.dumps([cell.grid, cell.arm, cell.settings], sort_keys=True)


def reference_of(member: Group, groups: Sequence[Group]) -> Group | None:
    """Return the group of the same grid and place that `member` is compared with.

    It is the one without the first of `FAMILIES` in which `member` departs from `REFERENCE` and for
    which there is such a group: GRPO on a mixture is compared with SAPO on a mixture, SAPO without
    correction with SAPO with it. A group that departs in nothing is its own reference; None where
    what it should be compared with has not been run.
    """
    own = {**REFERENCE, **member.settings}
    departed = [family for family in FAMILIES if any(own[k] != REFERENCE[k] for k in family)]
    if not departed:
        return member
    for family in departed:
        wanted = {**own, **{key: REFERENCE[key] for key in family}}
        for other in groups:
            if other.grid == member.grid and {**REFERENCE, **other.settings} == wanted:
                return other
    return None


def difference(member: Group, reference: Group, name: str) -> Estimate | None:
    """Return the mean of member - reference over the seeds both have, with its t-interval."""
    ours, theirs = member.figures(name), reference.figures(name)
    return estimate([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def curve(cells: Sequence[Cell], key: str, width: int = 1) -> Curve:
    """Return a quantity over steps, each cell first smoothed by a centred mean of `width` steps."""
    at: dict[int, list[float]] = {}
    for cell in cells:
        for step, value in _smooth(cell.series(key), width):
            at.setdefault(step, []).append(value)
    steps = sorted(at)
    points = [point for step in steps if (point := estimate(at[step])) is not None]
    return Curve(
        steps,
        [p.mean for p in points],
        [None if p.half is None else p.mean - p.half for p in points],
        [None if p.half is None else p.mean + p.half for p in points],
        [p.n for p in points],
    )


def _smooth(pairs: list[tuple[int, float]], width: int) -> list[tuple[int, float]]:
    half = width // 2
    values = [value for _, value in pairs]
    return [
        (step, mean(values[max(0, i - half) : i + half + 1])) for i, (step, _) in enumerate(pairs)
    ]


def summarise(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return what the page shows of each group as plain values, numbers to 5 digits."""
    return [_summary(member, reference_of(member, groups)) for member in groups]


def _summary(member: Group, reference: Group | None) -> dict[str, Any]:
    names = ["before", "after", *MEASURES]
    estimates = {name: _plain(member.estimate(name)) for name in names}
    summary: dict[str, Any] = {
        "grid": member.grid,
        "arm": member.arm,
        "settings": member.settings,
        "seeds": [cell.seed for cell in member.cells],
        "divergence": [
            {"step": cell.alarm_step, "rule": cell.alarm_rule} if cell.alarm_step else None
            for cell in member.cells
        ],
        "errors": {str(cell.seed): cell.error for cell in member.cells if cell.error},
        "measures": {name: value for name, value in estimates.items() if value},
    }
    if reference is not None and reference is not member:
        summary["difference"] = {
            "reference": {"arm": reference.arm, "settings": reference.settings},
            **{name: _plain(difference(member, reference, name)) for name in ("final", "after")},
        }
    curves = {key: curve(member.cells, key) for key in CURVES}
    summary["curves"] = {
        key: {
            "step": line.steps,
            "mean": _rounded(line.mean),
            "low": _rounded(line.low),
            "high": _rounded(line.high),
            "n": line.n,
        }
        for key, line in curves.items()
        if line.steps
    }
    return summary


def _plain(value: Estimate | None) -> dict[str, Any] | None:
    if value is None:
        return None
    ends = [None, None]
    if value.half is not None:
        ends = _rounded([value.mean - value.half, value.mean + value.half])
    return {"mean": _round(value.mean), "low": ends[0], "high": ends[1], "n": value.n}


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def _rounded(values: Sequence[float | None]) -> list[Any]:
    return [None if value is None else _round(value) for value in values]


def export(out: Path, title: str, cells: Sequence[Cell]) -> None:
    """Write OUT/summary.json and OUT/cells.csv."""
    summary = {
        "title": title,
        "interval": "95 %, Student's t over seeds",
        "window": WINDOW,
        "cells": len(cells),
        "unfinished": unfinished(out),
        "groups": summarise(group(cells)),
    }
    text = json.dumps(summary, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    replace(out / "summary.json", text + "\n")
    replace(out / "cells.csv", _csv(cells))


def _csv(cells: Sequence[Cell]) -> str:
    keys = list(dict.fromkeys(key for cell in cells for key in cell.settings))
    names = ["before", "after", *MEASURES]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ends = ["alarm_step", "alarm_rule", "steps", "seconds", "error"]
    writer.writerow(["name", "grid", "arm", *keys, "seed", *names, *ends])
    for cell in cells:
        values = [figure(cell, name) for name in names]
        settings = [cell.settings.get(key) for key in keys]
        last = [cell.alarm_step, cell.alarm_rule, len(cell.rows), cell.seconds, cell.error]
        row = [cell.name, cell.grid, cell.arm, *settings, cell.seed, *_rounded(values), *last]
        writer.writerow(row)
    return file.getvalue()


def replace(path: Path, text: str) -> None:
    """Write text to a temporary name and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
