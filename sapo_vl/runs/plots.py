"""Draws RUN/curves.png, the learning curves of a run, from RUN/metrics.jsonl.

Four panels: accuracy (sampled in training, and held-out with confidence intervals), reward and its
terms, gate weights, and the policy's entropy with its mismatch to the sampler. Quantities that the
run did not record are not drawn.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sapo_vl.errors import DataError
from sapo_vl.runs.files import atomic_write
from sapo_vl.runs.metrics import MetricsRow, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TERM = "reward/term/"
"""Prefix of a term's mean score in a metrics row."""

BLUE, ORANGE, GREEN, GREY = "#2563eb", "#e8590c", "#0b7a55", "#64748b"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def curves(run_dir: Path) -> Path:
    """Draw RUN/curves.png and return its path. Raises DataError if there is no row to draw."""
    rows = read(run_dir)
    train = [row for row in rows if row.get("phase") == "train"]
    held_out = [row for row in rows if row.get("phase") == "eval" and is_number(row.get("avg"))]
    if not train and not held_out:
        raise DataError(f"{run_dir}/metrics.jsonl holds no training step and no evaluation yet")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
        _accuracy(axes[0, 0], train, held_out)
        _reward(axes[0, 1], train)
        _gate(axes[1, 0], train)
        _distance(axes[1, 1], train)
        for axis in axes.flat:
            axis.set_xlabel("rollout step" if axis in axes[1] else "")
            if not axis.has_data():
                axis.text(
                    0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", color=GREY
                )
        path = run_dir / "curves.png"
        with atomic_write(path) as partial:
            figure.savefig(partial, dpi=150, format="png")
        plt.close(figure)
    return path


def _accuracy(axis: Axes, train: list[MetricsRow], held_out: list[MetricsRow]) -> None:
    axis.set_title("Accuracy")
    _line(axis, train, "accuracy", BLUE, "sampled in training")
    if held_out:
        _held_out(axis, held_out)
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    _legend(axis, "lower right")


def _held_out(axis: Axes, rows: list[MetricsRow]) -> None:
    steps = [int(row["step"]) for row in rows]
    means = [_number_or(row["avg"], 0) for row in rows]
    below = [
        mean - _number_or(row.get("ci95_low"), mean) for row, mean in zip(rows, means, strict=True)
    ]
    above = [
        _number_or(row.get("ci95_high"), mean) - mean for row, mean in zip(rows, means, strict=True)
    ]
    axis.errorbar(
        steps,
        means,
        yerr=[below, above],
        fmt="o",
        color=ORANGE,
        markersize=6,
        capsize=4,
        zorder=4,
        label="held-out, 95 % CI",
    )
    greedy = [
        (step, row["greedy"])
        for step, row in zip(steps, rows, strict=True)
        if is_number(row.get("greedy"))
    ]
    if greedy:
        (line,) = axis.plot(*zip(*greedy, strict=True), "D", color=GREEN, label="held-out, greedy")
        line.set(fillstyle="none", markersize=5, markeredgewidth=1.4, zorder=5)
    for step, mean, row in zip(steps, means, rows, strict=True):
        if row.get("name") in ("before", "after"):
            left = row["name"] == "before"
            axis.annotate(
                f"{100 * mean:.1f} %",
                (step, mean),
                xytext=(8 if left else -8, -14),
                textcoords="offset points",
                ha="left" if left else "right",
                va="center",
                color=ORANGE,
                fontsize=9,
            )


def _reward(axis: Axes, train: list[MetricsRow]) -> None:
    axis.set_title("Reward")
    _line(axis, train, "reward/mean", BLUE, "reward")
    terms = term_names(train)
    colors = itertools.cycle([ORANGE, GREEN, GREY])
    for term, color in zip(terms if len(terms) > 1 else [], colors, strict=False):
        _line(axis, train, f"{TERM}{term}", color, f"score of {term}")
    axis.set_ylabel("mean per response")
    _legend(axis)


def term_names(rows: list[MetricsRow]) -> list[str]:
    """Return the reward's terms; a name with a slash is a term's mean over one task."""
    names = {key.removeprefix(TERM) for row in rows for key in row if key.startswith(TERM)}
    return sorted(name for name in names if "/" not in name)


def _gate(axis: Axes, train: list[MetricsRow]) -> None:
    axis.set_title("Gate weight of a token")
    _line(axis, train, "gate/mean_pos", BLUE, "mean, advantage > 0")
    _line(axis, train, "gate/mean_neg", ORANGE, "mean, advantage < 0")
    if not axis.lines:
        _line(axis, train, "gate/mean", BLUE, "mean")
    _line(axis, train, "gate/p01", GREY, "1st percentile")
    axis.set_ylabel("w = sech²(τ/2 · (r − 1))")
    _legend(axis)


def _distance(axis: Axes, train: list[MetricsRow]) -> None:
    axis.set_title("Entropy and mismatch")
    _line(axis, train, "entropy", BLUE, "entropy")
    axis.set_ylabel("entropy (nats per token)", color=BLUE)
    if series(train, "mismatch/kl")[0].size:
        right = axis.twinx()
        right.grid(visible=False)
        _line(right, train, "mismatch/kl", ORANGE, "KL")
        right.set_ylabel("KL, learner to sampler (nats)", color=ORANGE)
        right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)


def _line(axis: Axes, rows: list[MetricsRow], key: str, color: str, label: str) -> None:
    """Draw a quantity faintly with its moving mean on top; nothing if it was not recorded."""
    steps_N, values_N = series(rows, key)
    if steps_N.size == 0:
        return
    width = max(1, steps_N.size // 20) * 2 + 1
    if steps_N.size < 8:
        axis.plot(steps_N, values_N, "o-", color=color, markersize=3, label=label)
        return
    axis.plot(steps_N, values_N, color=color, alpha=0.25, linewidth=1)
    axis.plot(steps_N, smooth(values_N, width), color=color, linewidth=2, label=label)


def series(rows: list[MetricsRow], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values [N] of the rows in which the quantity is a number."""
    pairs = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    array_N2 = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return array_N2[:, 0], array_N2[:, 1]


def smooth(values_N: np.ndarray, width: int) -> np.ndarray:
    """Return the centred moving mean, over fewer values at the ends."""
    ones = np.ones(width)
    weights_N = np.convolve(np.ones_like(values_N), ones, mode="same")
    return np.convolve(values_N, ones, mode="same") / weights_N


def is_number(value: object) -> bool:
    """Whether a row's value is a finite number; null, which stands for others, is none."""
    return isinstance(value, int | float)


def _number_or(value: Any, default: float) -> float:
    return float(value) if is_number(value) else default


def _legend(axis: Axes, where: Literal["best", "lower right"] = "best") -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc=where)
