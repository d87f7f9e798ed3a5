"""The lab's figures: accuracy curves in small multiples, and final accuracies with intervals.

The palette is Okabe and Ito's, safe for colour-blind readers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sapo_vl.lab.results import GROUP, WINDOW, smoothed, t_interval
from sapo_vl.runs.files import atomic_write
from sapo_vl.runs.plots import STYLE

PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#B8A800",
)  # fmt: skip
GREY = "#64748b"
SMOOTH = 5  # steps of the centred mean that smooths each seed's curve
WIDTH, DPI = 11.0, 110  # inches and dots per inch: 1210 pixels
MAX_ARMS_IN_PANEL = 4  # more overlapping bands can't be told apart
ACROSS = 4  # panels side by side with one panel per arm
DASHES: dict[str, Any] = {"all seeds": "", "one seed": (4, 2), "some seeds ended": (1, 1)}

CURVES_CAPTION = (
    f"Mean over seeds, each smoothed over {SMOOTH} steps, with its 95 % interval. Dashed: one "
    "seed, not a result. Dotted: some seeds have ended. Grey: the reference, where each arm has a "
    "panel. Cross: the collapse detector fired in one seed."
)
FINALS_CAPTION = (
    "Filled: mean over seeds with its 95 % interval, cut at 0 and 100 %. Hollow: the seeds; "
    "without a filled dot, one seed, not a result."
)


def curves(path: Path, cells: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Draw one grid's sampled accuracy over rollout steps.

    Panels are updates per rollout batch (across) and learning rates (down). A grid with more than
    four arms at one place has a panel per arm instead, with the reference's mean in grey.
    """
    import seaborn
    from matplotlib import pyplot as plt

    points = smoothed(rows, "accuracy", SMOOTH).merge(cells, left_on="cell", right_on="name")
    at_step = points.groupby([*GROUP, "step"])["accuracy"]
    points["mean"], points["n"] = at_step.transform("mean"), at_step.transform("size")
    size = points.groupby(GROUP)["cell"].transform("nunique")
    points["line"] = np.select(
        [size == 1, points["n"] < size], ["one seed", "some seeds ended"], "all seeds"
    )
    palette = arm_palette(cells)
    by_arm = len(palette) > MAX_ARMS_IN_PANEL and len(cells.groupby(["lr", "updates"])) == 1
    facets: dict[str, Any] = {"row": "lr", "col": "updates"}
    if by_arm:
        facets = {"col": "label", "col_order": list(palette), "col_wrap": ACROSS}
    columns = ACROSS if by_arm else cells["updates"].nunique()
    height = 2.2 if by_arm or cells["lr"].nunique() > 1 else 3.4
    with plt.rc_context(STYLE):
        grid = seaborn.relplot(
            points, kind="line", x="step", y="accuracy", hue="label", hue_order=list(palette),
            palette=palette, style="line", style_order=list(DASHES), dashes=DASHES,
            errorbar=_interval, height=height, aspect=WIDTH / columns / height, **facets,
        )  # fmt: skip
        for names, axis in grid.axes_dict.items():
            here = points[(points[["lr", "updates"]] == names).all(axis=1)]
            if by_arm:
                here = points[points["label"] == names]
                reference = points[points["is_reference"]].drop_duplicates("step")
                axis.plot(reference["step"], reference["mean"], color=GREY, linewidth=1.3, zorder=1)
            alarms = here[here["step"] == here["alarm_step"]]
            colors = [palette[label] for label in alarms["label"]]
            axis.scatter(alarms["step"], alarms["mean"], marker="x", s=34, c=colors, zorder=5)
            if here.empty:
                axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=GREY)
        top = math.ceil(20 * min(1.0, 1.3 * points["mean"].max())) / 20
        grid.set(ylim=(0, max(0.1, top)))
        grid.set_titles("{col_name}" if by_arm else "updates {col_name}, lr {row_name:g}")
        grid.set_axis_labels("rollout step", "sampled accuracy")
        _save(grid, path, percent_axis="y")


def finals(path: Path, cells: pd.DataFrame) -> None:
    """Draw one grid's final accuracies: means with intervals, and the seeds as hollow dots."""
    import seaborn
    from matplotlib import pyplot as plt

    palette = arm_palette(cells)
    several = cells.groupby(GROUP)["name"].transform("size") > 1
    height = 0.6 + 0.3 * len(palette)
    style: dict[str, Any] = {"x": "final", "y": "label", "hue": "label", "order": list(palette)}
    style |= {"hue_order": list(palette), "palette": palette, "orient": "h", "legend": False}
    with plt.rc_context(STYLE):
        grid = seaborn.FacetGrid(
            cells, row="lr", col="updates", height=height,
            aspect=WIDTH / cells["updates"].nunique() / height,
        )  # fmt: skip
        for (lr, updates), axis in grid.axes_dict.items():
            place = (cells["lr"] == lr) & (cells["updates"] == updates)
            mean = {"errorbar": _interval, "linestyle": "none", "markersize": 6, "linewidth": 2}
            if (place & several).any():
                seaborn.pointplot(cells[place & several], ax=axis, **style, **mean)
            seeds = {"jitter": False, "size": 5, "marker": "$\\circ$", "zorder": 3}
            seaborn.stripplot(cells[place], ax=axis, **style, **seeds)
        grid.set_titles("updates {col_name}, lr {row_name:g}")
        grid.set_axis_labels(f"sampled accuracy, last {WINDOW} steps", "")
        low, high = grid.axes[0, 0].get_xlim()
        grid.set(xlim=(max(0.0, low), min(1.0, high)))
        _save(grid, path, percent_axis="x")


def arm_palette(cells: pd.DataFrame) -> dict[str, str]:
    """Return one grid's arms in display order, each with its colour."""
    labels = cells.sort_values("rank")["label"].unique()
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def _interval(values: pd.Series) -> tuple[float, float]:
    mean, half = t_interval(values)
    return mean - half, mean + half


def _save(grid: Any, path: Path, percent_axis: str) -> None:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    for axis in grid.axes.flat:
        getattr(axis, f"{percent_axis}axis").set_major_formatter(PercentFormatter(1, decimals=0))
    with atomic_write(path) as partial:
        grid.savefig(partial, dpi=DPI, format="png")
    plt.close(grid.figure)
