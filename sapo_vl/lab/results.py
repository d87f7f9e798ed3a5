"""The lab's results as data frames: OUT/cells/*/result.json, their measures, and intervals.

Cells that differ only in their seed form a group. A measure is one number per cell (`MEASURES`);
for a group it is the mean over seeds with a 95 % interval of Student's t. Differences from the
reference (plain SAPO) are paired by seed, so that what two cells of a seed share cancels.

`export` writes OUT/summary.json (every number of the page, and the curves) and OUT/cells.csv (one
line per cell). Significance is left to the reader.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sapo_vl.errors import DataError
from sapo_vl.lab.grids import Setting
from sapo_vl.runs.files import write_text

WINDOW = 10  # training steps of a final or best accuracy
SETTINGS = [field.name for field in fields(Setting)]
ARM_KEYS = ["objective", "gate", "tau_pos", "tau_neg"]
REFERENCE = {key: getattr(Setting(), key) for key in ARM_KEYS}
"""Plain SAPO. The other settings, updates and learning rate, are the place an arm is run at."""

GROUP = ["grid", "updates", "lr", "label"]
"""Index of a group of cells: grid, place, and the arm's label within the grid."""

SHORT = {"tau_pos": "τ+", "tau_neg": "τ−"}
CURVES = ("accuracy", "entropy", "gate/mean", "mismatch/kl")


class Measure(NamedTuple):
    """One number per cell, reduced from a quantity's values over training steps."""

    label: str
    key: str  # of the metrics rows
    reduce: str  # mean, max, final (mean of the last WINDOW) or best (largest mean of WINDOW)


MEASURES = {
    "final": Measure("final accuracy", "accuracy", "final"),
    "best": Measure("best accuracy", "accuracy", "best"),
    "gate_mean": Measure("mean gate", "gate/mean", "mean"),
    "gate_p01": Measure("gate, 1st percentile", "gate/p01", "mean"),
    "below_half_pos": Measure("gate < 0.5, A > 0", "gate/below_0.5_pos", "mean"),
    "below_half_neg": Measure("gate < 0.5, A < 0", "gate/below_0.5_neg", "mean"),
    "max_wr_pos": Measure("max w·r, A > 0", "gate/max_wr_pos", "max"),
    "max_wr_neg": Measure("max w·r, A < 0", "gate/max_wr_neg", "max"),
    "gap_pos": Measure("gate gap, A > 0", "gate/gap_pos", "mean"),
    "bound_pos": Measure("its bound, A > 0", "gate/bound_pos", "mean"),
    "gap_neg": Measure("gate gap, A < 0", "gate/gap_neg", "mean"),
    "bound_neg": Measure("its bound, A < 0", "gate/bound_neg", "mean"),
    "ess": Measure("effective sample size", "ratio/ess", "mean"),
    "ratio_kl": Measure("KL of the ratio", "ratio/kl", "mean"),
    "mismatch_kl": Measure("KL of the mismatch", "mismatch/kl", "mean"),
    "entropy_final": Measure("final entropy", "entropy", "final"),
    "length_final": Measure("final length", "response/length", "final"),
}
VALUES = ["before", "after", *MEASURES]
"""The measures, and held-out accuracy before and after training."""


@dataclass(frozen=True)
class Results:
    """All finished cells of a lab folder."""

    cells: pd.DataFrame  # one row per cell in display order, see `labelled`
    rows: pd.DataFrame  # one row per training step: "cell" (its name), "step", quantities
    unfinished: list[str]  # folders of cells that were started and have no result


def load(out: Path) -> Results:
    """Read the finished cells of OUT.

    Raises DataError for an unreadable result, for two cells with the same setting and seed, and
    when no cell is finished.
    """
    folder = out / "cells"
    paths = sorted(folder.rglob("result.json"))
    if not paths:
        raise DataError(f"{folder} holds no finished cell (no result.json)")
    records, rows = [], []
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            steps = _steps(result["rows"])
            records.append(_cell(result, steps))
        except KeyError as error:
            raise DataError(f"{path} is not a cell's result: it lacks {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is not a cell's result ({error}); delete it and run the cell again"
            ) from error
        rows.append(steps.assign(cell=records[-1]["name"]))
    cells = pd.DataFrame(records)
    key = ["grid", "arm", *SETTINGS, "seed"]
    if cells.duplicated(key).any():
        first, second = cells[cells.duplicated(key, keep=False)].index[:2]
        raise DataError(f"{paths[second]} and {paths[first]} hold the same setting and seed")
    started = [path for path in sorted(folder.glob("*seed[0-9]*")) if path.is_dir()]
    unfinished = [path.name for path in started if not (path / "result.json").exists()]
    return Results(labelled(cells), pd.concat(rows, ignore_index=True), unfinished)


def _steps(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a cell's metrics rows as numbers; anything not finite is NaN."""
    frame = pd.DataFrame(rows, columns=None if rows else ["step"])
    frame["step"] = frame["step"].astype(int)
    return frame.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)


def _cell(result: dict[str, Any], steps: pd.DataFrame) -> dict[str, Any]:
    cell, alarm = result["cell"], result.get("alarm") or {}
    measures = {
        name: _reduce(steps[measure.key].dropna(), measure.reduce) if measure.key in steps else None
        for name, measure in MEASURES.items()
    }
    return {
        **{key: cell[key] for key in ("name", "grid", "arm")},
        **{key: cell["settings"][key] for key in SETTINGS},
        "seed": int(cell["seed"]),
        "before": result.get("before"),
        "after": result.get("after"),
        **measures,
        "alarm_step": alarm.get("step"),
        "alarm_rule": alarm.get("rule"),
        "steps": len(steps),
        "seconds": float(result.get("seconds") or 0),
        "error": result.get("error"),
    }


def _reduce(values: pd.Series, how: str) -> float:
    if how == "final":
        return float(values.tail(WINDOW).mean())
    if how == "best":
        return float(values.rolling(min(WINDOW, max(1, len(values)))).mean().max())
    return float(values.agg(how))


def labelled(cells: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `label` and `is_reference`; sort by grid, place, arm and seed.

    A label tells an arm from the others of its grid: the arm's name, and the settings in which arms
    of that name differ. Plain SAPO's names sort first, numbers in their own order.
    """
    cells = cells.assign(
        **{name: pd.to_numeric(cells[name], errors="coerce") for name in VALUES},
        alarm_step=cells["alarm_step"].astype("Int64"),
        is_reference=(cells[ARM_KEYS] == pd.Series(REFERENCE)).all(axis=1),
        label="",
        rank=0,
    )
    for _, grid in cells.groupby("grid"):
        members = grid.groupby(["arm", *ARM_KEYS]).groups
        for rank, arm in enumerate(sorted(members, key=_display_order)):
            names = varying(grid[grid["arm"] == arm[0]], ARM_KEYS)
            settings = zip(ARM_KEYS, arm[1:], strict=True)
            parts = [
                f"{SHORT.get(key, key)} {setting_text(key, v)}"
                for key, v in settings
                if key in names
            ]
            if not parts or grid["arm"].nunique() > 1:
                parts.insert(0, arm[0])
            cells.loc[members[arm], "label"] = ", ".join(parts)
            cells.loc[members[arm], "rank"] = rank
    return cells.sort_values(["grid", "updates", "lr", "rank", "seed"], ignore_index=True)


def _display_order(arm: tuple[Any, ...]) -> list[tuple[bool, Any]]:
    return [
        (isinstance(value, str) and value != REFERENCE[key], value)
        for key, value in zip(ARM_KEYS, arm[1:], strict=True)
    ]


def varying(cells: pd.DataFrame, keys: list[str]) -> list[str]:
    """Return the settings among `keys` that have more than one value."""
    return [key for key in keys if cells[key].nunique() > 1]


def setting_text(key: str, value: Any) -> str:
    """Return a setting's value for the reader: 3e-4, 1.05, sigmoid."""
    if key == "lr":
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return value if isinstance(value, str) else f"{value:g}"


def over_seeds(grouped: Any) -> pd.DataFrame:
    """Return columns mean, half and n of a pandas groupby; missing values are left out.

    `half` is the half width of the 95 % t-interval, t * s / sqrt(n) with s over n - 1; NaN for one
    seed. For the groupby of a frame each of the three has the frame's columns below it.
    """
    n = grouped.count()
    half = grouped.std() / np.sqrt(n) * stats.t.ppf(0.975, n - 1)
    return pd.concat({"mean": grouped.mean(), "half": half, "n": n}, axis=1)


def t_interval(values: pd.Series) -> tuple[float, float]:
    """Return mean and half width as `over_seeds`, of one series."""
    n = values.count()
    return values.mean(), values.std() / math.sqrt(n) * stats.t.ppf(0.975, n - 1)


def estimates(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `over_seeds` of every measure by group, in display order."""
    return over_seeds(cells.groupby(GROUP, sort=False)[VALUES])


def differences(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `over_seeds` of final and held-out accuracy minus the reference's, paired by seed.

    The reference is plain SAPO in the same grid, at the same place; groups without one are missing.
    """
    place = ["grid", "updates", "lr", "seed"]
    reference = cells.loc[cells["is_reference"], [*place, "final", "after"]]
    paired = cells[~cells["is_reference"]].merge(reference, on=place, suffixes=("", "_reference"))
    for name in ("final", "after"):
        paired[name] -= paired[f"{name}_reference"]
    return over_seeds(paired.groupby(GROUP, sort=False)[["final", "after"]])


def smoothed(rows: pd.DataFrame, key: str, window: int) -> pd.DataFrame:
    """Return cell, step and `key` where it is recorded, each cell smoothed by a centred mean."""
    values = rows.reindex(columns=["cell", "step", key]).dropna()
    values[key] = values.groupby("cell")[key].transform(
        lambda series: series.rolling(window, center=True, min_periods=1).mean()
    )
    return values


def export(out: Path, title: str, results: Results) -> None:
    """Write OUT/summary.json and OUT/cells.csv, measures rounded to 5 digits."""
    cells = results.cells
    measured, compared = estimates(cells), differences(cells)
    groups = []
    for key, group in cells.groupby(GROUP, sort=False):
        first = group.iloc[0]
        summary = {
            **{name: first[name] for name in ("grid", "arm", "label")},
            "settings": {name: first[name] for name in SETTINGS},
            "seeds": list(group["seed"]),
            "divergence": [
                None if pd.isna(step) else {"step": step, "rule": rule}
                for step, rule in zip(group["alarm_step"], group["alarm_rule"], strict=True)
            ],
            "errors": group.dropna(subset="error").set_index("name")["error"].to_dict(),
            "measures": _intervals(measured.loc[key]),
        }
        if key in compared.index:
            summary["difference"] = _intervals(compared.loc[key])
        rows = results.rows[results.rows["cell"].isin(group["name"])]
        lines = {key: over_seeds(rows.groupby("step")[key]) for key in CURVES if key in rows}
        summary["curves"] = {
            key: {
                "step": list(line.index),
                "mean": [_rounded(value) for value in line["mean"]],
                "low": [_rounded(value) for value in line["mean"] - line["half"]],
                "high": [_rounded(value) for value in line["mean"] + line["half"]],
                "n": list(line["n"]),
            }
            for key, line in lines.items()
            if line["n"].any()
        }
        groups.append(summary)
    document = {
        "title": title,
        "interval": "95 %, Student's t over seeds",
        "window": WINDOW,
        "cells": len(cells),
        "unfinished": results.unfinished,
        "groups": groups,
    }
    text = json.dumps(
        document, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )
    write_text(out / "summary.json", text + "\n")
    columns = ["name", "grid", "arm", *SETTINGS, "seed", *VALUES]
    columns += ["alarm_step", "alarm_rule", "steps", "seconds", "error"]
    table = cells.sort_values("name")[columns]
    write_text(out / "cells.csv", table.to_csv(index=False, float_format="%.5g"))


def _intervals(row: pd.Series) -> dict[str, Any]:
    """Return mean, low, high and n of a row of `over_seeds` by column; recorded ones only."""
    return {
        name: {
            "mean": _rounded(row["mean", name]),
            "low": _rounded(row["mean", name] - row["half", name]),
            "high": _rounded(row["mean", name] + row["half", name]),
            "n": int(row["n", name]),
        }
        for name in row["n"].index
        if row["n", name]
    }


def _rounded(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.5g}")


def _plain(value: Any) -> Any:
    """Turn a numpy scalar into Python's for json."""
    return value.item()
