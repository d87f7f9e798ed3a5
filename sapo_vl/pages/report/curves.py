"""Curves as inline SVG: geometry is computed here, run_report.jinja draws it.

One chart a quantity. With one run a chart shows all lines of its spec; with several it shows the
first line of each run. Each chart has its numbers in words, for readers who don't see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sapo_vl.pages.report.load import LoadedRun
from sapo_vl.runs.metrics import MetricsRow
from sapo_vl.runs.plots import TERM, is_number, series, smooth, term_names

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 8, 8, 24
"""Pixels of a chart and of the margins around its axes."""

MOST_POINTS = 400
"""Points of a line; of a longer run each bin's smallest and largest value are drawn."""

COLORS = 6
"""Line colours of the template, classes c0 to c5; further lines begin again."""

SMOOTH_FROM = 8
"""Lines of fewer points are drawn as they are."""


class ChartCurve(NamedTuple):
    """A line to draw."""

    key: str  # of the metrics rows
    label: str


@dataclass(frozen=True)
class ChartSpec:
    """What one chart shows."""

    title: str
    unit: str
    curves: tuple[ChartCurve, ...]
    phase: str = "train"
    kind: str = "plain"  # "percent" and "log" have axes of their own
    held_out: bool = False  # with the held-out accuracy and its interval


SPECS = (
    ChartSpec("Reward", "mean per response", (ChartCurve("reward/mean", "reward"),)),
    ChartSpec(
        "Accuracy",
        "share of right responses",
        (ChartCurve("accuracy", "sampled in training"),),
        kind="percent",
        held_out=True,
    ),
    ChartSpec(
        "Response length",
        "tokens",
        (
            ChartCurve("response/length", "mean"),
            ChartCurve("response/length_p95", "95th percentile"),
        ),
    ),
    ChartSpec("Entropy", "nats per token", (ChartCurve("entropy", "entropy of the policy"),)),
    ChartSpec(
        "Gate weight of a token",
        "w, 1 is full trust",
        (
            ChartCurve("gate/mean", "mean"),
            ChartCurve("gate/mean_pos", "advantage > 0"),
            ChartCurve("gate/mean_neg", "advantage < 0"),
            ChartCurve("gate/p01", "1st percentile"),
        ),
    ),
    ChartSpec(
        "Distances between policies",
        "KL in nats, logarithmic",
        (
            ChartCurve("ratio/kl", "updates of a step"),
            ChartCurve("mismatch/kl", "sampler and learner"),
            ChartCurve("kl/reference", "reference policy"),
        ),
        kind="log",
    ),
    ChartSpec("Gradient norm", "before clipping", (ChartCurve("grad_norm", "norm"),)),
    ChartSpec(
        "Groups",
        "share",
        (
            ChartCurve("groups/zero_std", "without a gradient"),
            ChartCurve("groups/all_right", "all right"),
            ChartCurve("groups/all_wrong", "all wrong"),
        ),
        kind="percent",
    ),
    ChartSpec(
        "Faults of responses",
        "share",
        (
            ChartCurve("response/cut", "cut at the limit"),
            ChartCurve("response/no_verdict", "no verdict"),
            ChartCurve("response/repetition", "repeated 4-grams"),
        ),
        kind="percent",
    ),
    ChartSpec(
        "Seconds of a step",
        "seconds",
        (
            ChartCurve("seconds/rollout", "rollouts"),
            ChartCurve("seconds/update", "updates"),
            ChartCurve("seconds/old_logprobs", "old log-probs"),
            ChartCurve("seconds/sync", "weights to the sampler"),
        ),
    ),
    ChartSpec(
        "Resting records",
        "left out for a while by data.rest_after",
        (
            ChartCurve("pool/resting", "resting"),
            ChartCurve("pool/easy", "always right"),
            ChartCurve("pool/hard", "always wrong"),
        ),
    ),
    ChartSpec(
        "Warm-up loss",
        "cross-entropy in nats per token",
        (ChartCurve("loss", "loss"),),
        phase="sft",
    ),
)


class AxisTick(NamedTuple):
    """A mark of an axis, in pixels."""

    at: float
    label: str


@dataclass(frozen=True)
class ChartLine:
    """A drawn line."""

    label: str
    color: int  # class cN of the template
    points: str  # "x,y x,y .." in pixels
    faint: str  # the unsmoothed values behind it; empty: `points` are those
    words: str  # its numbers
    markers: Sequence[tuple[float, float, float, float]] = ()  # x, y, y of an interval's two ends


@dataclass(frozen=True)
class LineChart:
    """A chart's geometry and its words."""

    title: str
    unit: str
    lines: Sequence[ChartLine]
    x_ticks: Sequence[AxisTick]
    y_ticks: Sequence[AxisTick]

    @property
    def words(self) -> str:
        """Return the chart in words."""
        return "; ".join(f"{line.label}: {line.words}" for line in self.lines)

    @property
    def caption(self) -> str:
        """Return the first line in words."""
        first = self.lines[0]
        return f"{first.label}: {first.words}" if len(self.lines) > 1 else first.words


class LineData(NamedTuple):
    """A line's values; N of them."""

    label: str
    x_N: np.ndarray
    y_N: np.ndarray
    color: int
    ends: Sequence[tuple[float, float]] = ()  # of intervals: drawn as points, not as a line


def charts(runs: Sequence[LoadedRun]) -> list[LineChart]:
    """Return the charts for which a run has recorded anything."""
    found = []
    for spec in _specs(runs):
        data = _data(spec, runs)
        if data:
            one_of_several = len(runs) > 1 and len(spec.curves) > 1
            title = f"{spec.title}: {spec.curves[0].label}" if one_of_several else spec.title
            found.append(_chart(spec, title, data))
    return found


def _specs(runs: Sequence[LoadedRun]) -> list[ChartSpec]:
    """Return SPECS with the terms of a single run's reward, and a chart of its benchmarks."""
    specs = list(SPECS)
    if len(runs) == 1:
        terms = term_names(runs[0].of_phase("train"))
        if len(terms) > 1:
            curves = tuple(ChartCurve(f"{TERM}{term}", f"score of {term}") for term in terms)
            specs[0] = ChartSpec("Reward", "mean per response", (*SPECS[0].curves, *curves))
    keys = {key for run in runs for row in run.of_phase("eval") for key in row}
    for key in sorted(key for key in keys if key.startswith("benchmark/")):
        name = key.removeprefix("benchmark/")
        specs.append(
            ChartSpec(name, "accuracy", (ChartCurve(key, name),), phase="eval", kind="percent")
        )
    return specs


def _data(spec: ChartSpec, runs: Sequence[LoadedRun]) -> list[LineData]:
    """Return a chart's lines: with several runs each has its colour, with one each quantity."""
    several = len(runs) > 1
    data: list[LineData] = []
    for index, run in enumerate(runs):
        rows = run.of_phase(spec.phase)
        curves = spec.curves[:1] if several else spec.curves
        for place, curve in enumerate(curves):
            x_N, y_N = series(rows, curve.key)
            if spec.kind == "log":
                x_N, y_N = x_N[y_N > 0], y_N[y_N > 0]
            if x_N.size:
                label, color = (run.name, index) if several else (curve.label, place)
                data.append(LineData(label, x_N, y_N, color % COLORS))
        if spec.held_out:
            prefix, color = (f"{run.name}, ", index) if several else ("", len(curves))
            data += _held_out(run.of_phase("eval"), prefix, color % COLORS)
    return data


def _held_out(rows: list[MetricsRow], prefix: str, color: int) -> list[LineData]:
    """Return the held-out accuracy as points with their intervals."""
    known = [row for row in rows if is_number(row.get("avg"))]
    if not known:
        return []
    x_N = np.array([float(row["step"]) for row in known])
    y_N = np.array([float(row["avg"]) for row in known])
    ends = [
        (_or(row.get("ci95_low"), mean), _or(row.get("ci95_high"), mean))
        for row, mean in zip(known, y_N.tolist(), strict=True)
    ]
    return [LineData(f"{prefix}held-out, 95 % interval", x_N, y_N, color, ends)]


def _or(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _chart(spec: ChartSpec, title: str, data: Sequence[LineData]) -> LineChart:
    """Lay out the lines: both axes span all values; that of percentages begins at 0."""
    left = min(float(one.x_N.min()) for one in data)
    right = max(float(one.x_N.max()) for one in data)
    values = [float(value) for one in data for value in one.y_N]
    values += [end for one in data for ends in one.ends for end in ends]
    if spec.kind == "log":
        ticks = log_ticks(min(values), max(values))
    else:
        is_share = spec.kind == "percent"
        ticks = linear_ticks(0.0 if is_share else min(values), max(values))
    bottom, top = min(ticks[0], *values), max(ticks[-1], *values)

    def x_of(x: float) -> float:
        share = (x - left) / (right - left) if right > left else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y_of(y: float) -> float:
        if spec.kind == "log":
            share = math.log(y / bottom) / math.log(top / bottom)
        else:
            share = (y - bottom) / (top - bottom)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def points(x_N: np.ndarray, y_N: np.ndarray) -> str:
        pairs = zip(x_N.tolist(), y_N.tolist(), strict=True)
        return " ".join(f"{x_of(x):g},{y_of(y):g}" for x, y in pairs)

    lines = []
    for one in data:
        x_N, y_N = _thinned(one.x_N, one.y_N)
        markers, faint = [], ""
        if one.ends:
            markers = [
                (x_of(x), y_of(y), y_of(low), y_of(high))
                for x, y, (low, high) in zip(
                    one.x_N.tolist(), one.y_N.tolist(), one.ends, strict=True
                )
            ]
            drawn = ""
        elif one.x_N.size >= SMOOTH_FROM:
            faint = points(x_N, y_N)
            width = max(1, one.x_N.size // 20) * 2 + 1
            drawn = points(*_every(one.x_N, smooth(one.y_N, width)))
        else:
            drawn = points(x_N, y_N)
            markers = [(x_of(x), y_of(y), y_of(y), y_of(y)) for x, y in zip(x_N, y_N, strict=True)]
        lines.append(ChartLine(one.label, one.color, drawn, faint, _words(spec, one), markers))
    return LineChart(
        title,
        spec.unit,
        lines,
        [AxisTick(x_of(x), f"{x:g}") for x in linear_ticks(left, right) if left <= x <= right],
        [AxisTick(y_of(y), number(y, spec.kind)) for y in ticks],
    )


def _thinned(x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MOST_POINTS points that keep the extremes of every stretch of the line."""
    if x_N.size <= MOST_POINTS:
        return x_N, y_N
    kept: list[int] = []
    for indices in np.array_split(np.arange(x_N.size), MOST_POINTS // 2):
        low, high = indices[y_N[indices].argmin()], indices[y_N[indices].argmax()]
        kept += sorted({int(low), int(high)})
    return x_N[kept], y_N[kept]


def _every(x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MOST_POINTS points of a smooth line, the last among them."""
    chosen = np.unique(np.linspace(0, x_N.size - 1, min(x_N.size, MOST_POINTS)).round().astype(int))
    return x_N[chosen], y_N[chosen]


def _words(spec: ChartSpec, one: LineData) -> str:
    low, high = int(one.y_N.argmin()), int(one.y_N.argmax())

    def at(i: int) -> str:
        return f"{number(float(one.y_N[i]), spec.kind)} at step {one.x_N[i]:g}"

    if one.y_N.size == 1:
        return at(0)
    return f"{at(0)}, {at(-1)}; lowest {at(low)}, highest {at(high)}"


def number(value: float, kind: str = "plain") -> str:
    """Return a value as a reader wants it: 3 or 4 significant digits."""
    if kind == "percent":
        return f"{float(f'{100 * value:.3g}'):g} %"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}" if abs(value) >= 0.9 else f"{value:.3g}"


def linear_ticks(low: float, high: float) -> list[float]:
    """Return up to 7 round numbers from at most `low` to at least `high`.

    Worked examples: 0.41 to 0.87 gives 0.4, 0.5, .., 0.9; equal ends give one step around them.
    """
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return up to 7 powers of ten from at most `low` to at least `high`."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = -(-(last - first) // 5)
    return [10.0**power for power in range(first, last + step, step)]
