"""The laboratory's figures: curves in small multiples, and final figures with their intervals.

Every curve is the mean over seeds with its 95 % t-interval as a band; where some seeds have ended
it is thin and dotted, and where there is one seed dashed, both without a band. A cross is the step
at which the collapse detector fired in one seed. Colours are Okabe and Ito's, which colour-blind
readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapo_vl.lab.facets import Layout, say
from sapo_vl.lab.results import Curve, Group, curve, reference_of
from sapo_vl.runs.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#B8A800",
)  # fmt: skip
GREY = "#64748b"
SMOOTH = 5  # steps of the centred mean that each seed's curve is smoothed with
WIDTH, DPI = 11.0, 110  # inches and dots per inch: 1210 pixels
ACROSS = 4  # most panels beside each other where every arm has its own
LONG = 28  # characters of an arm's name that fit above such a panel


def curves(path: Path, plan: Layout, key: str, label: str, *, share: bool) -> None:
    """Draw a quantity over steps at `path`; `share`: it is a share, shown in per cent from 0."""
    from matplotlib import pyplot as plt

    lines = [curve(member.cells, key, SMOOTH) for member in plan.groups]
    with plt.rc_context(STYLE):
        figure = _by_arm(plan, lines) if plan.facets.by_arm else _by_place(plan, lines)
        for axis in figure.axes:
            _finish(axis, plan.groups, lines, share)
        figure.supxlabel("rollout step", fontsize=10, color="#475569")
        figure.supylabel(label, fontsize=10, color="#475569")
        _save(figure, path)


def _by_place(plan: Layout, lines: Sequence[Curve]) -> Figure:
    """One panel per learning rate (rows) and number of updates (columns), all arms in each."""
    from matplotlib import pyplot as plt

    rows, columns = len(plan.rows), len(plan.columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 1.0 + (2.0 if rows > 1 else 3.2) * rows),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for i, row in enumerate(plan.rows):
        for j, column in enumerate(plan.columns):
            axis = axes[i, j]
            axis.set_title(_place_title(plan, row, column), fontsize=10)
            chosen = [n for n, g in enumerate(plan.groups) if _at(plan, g, row, column)]
            for n in chosen:
                _draw(axis, plan.groups[n], lines[n], _color(plan, plan.labels[n]))
            if not any(lines[n].steps for n in chosen):
                axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=GREY)
    arms = _drawn(plan, lines)
    _legend(figure, plan, arms, [_color(plan, arm) for arm in arms])
    return figure


def _by_arm(plan: Layout, lines: Sequence[Curve]) -> Figure:
    """One panel per arm and place, the reference's mean behind it in grey."""
    from matplotlib import pyplot as plt

    arms = _drawn(plan, lines)
    longest = max(len(arm) for arm in arms)
    places = [(row, column) for row in plan.rows for column in plan.columns]
    deep = math.ceil(len(arms) / ACROSS)
    across = math.ceil(len(arms) / deep)
    figure, axes = plt.subplots(
        deep * len(places), across, figsize=(WIDTH, 1.0 + 2.0 * deep * len(places)),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_visible(False)
    for p, (row, column) in enumerate(places):
        for a, arm in enumerate(arms):
            axis = axes[p * deep + a // across, a % across]
            axis.set_visible(True)
            axis.tick_params(labelbottom=a + across >= len(arms) and p + 1 == len(places))
            place = _place_title(plan, row, column)
            name = arm.replace(", ", ",\n") if longest > LONG else arm
            axis.set_title(f"{name}\n{place}" if place else name, fontsize=10)
            for n, member in enumerate(plan.groups):
                if plan.labels[n] == arm and _at(plan, member, row, column):
                    base = reference_of(member, plan.groups)
                    if base is not None and base is not member:
                        _behind(axis, lines[plan.groups.index(base)])
                    _draw(axis, member, lines[n], PALETTE[0])
    bases = (reference_of(member, plan.groups) for member in plan.groups)
    names = {plan.labels[plan.groups.index(base)] for base in bases if base is not None}
    reference = f"reference: {names.pop()}" if len(names) == 1 else "what it is compared with"
    _legend(figure, plan, ["the panel's arm", reference], [PALETTE[0], GREY])
    return figure


def _drawn(plan: Layout, lines: Sequence[Curve]) -> list[str]:
    """Return the arms that recorded the quantity; all of them where none did."""
    recorded = {label for label, line in zip(plan.labels, lines, strict=True) if line.steps}
    return [arm for arm in plan.arms if arm in recorded] or plan.arms


def _behind(axis: Axes, line: Curve) -> None:
    axis.plot(line.steps, line.mean, color=GREY, linewidth=1.3, zorder=2)


def _draw(axis: Axes, member: Group, line: Curve, color: str) -> None:
    """Draw one group's mean, band and alarms."""
    if not line.steps:
        return
    if len(member.cells) == 1:
        axis.plot(line.steps, line.mean, "--", color=color, linewidth=1.5, zorder=3)
    else:
        full = sum(n == len(member.cells) for n in line.n)
        axis.plot(line.steps[:full], line.mean[:full], color=color, linewidth=1.9, zorder=3)
        rest = slice(max(0, full - 1), None)
        axis.plot(line.steps[rest], line.mean[rest], ":", color=color, linewidth=1.3, zorder=3)
        axis.fill_between(
            line.steps[:full],
            [math.nan if low is None else low for low in line.low[:full]],
            [math.nan if high is None else high for high in line.high[:full]],
            color=color, alpha=0.16, linewidth=0, zorder=1,
        )  # fmt: skip
    at = dict(zip(line.steps, line.mean, strict=True))
    alarms = [c.alarm_step for c in member.cells if c.alarm_step in at]
    axis.scatter(
        alarms, [at[step] for step in alarms if step is not None],
        marker="x", s=34, color=color, linewidths=1.8, zorder=5,
    )  # fmt: skip


def _finish(axis: Axes, groups: Sequence[Group], lines: Sequence[Curve], share: bool) -> None:
    axis.margins(x=0.02)
    axis.tick_params(labelsize=9, length=0)
    means = [value for line in lines for value in line.mean]
    bands = [
        high
        for member, line in zip(groups, lines, strict=True)
        for high, n in zip(line.high, line.n, strict=True)
        if high is not None and n == len(member.cells)
    ]
    if share and means:
        highest = min(max(means + bands), 1.3 * max(means), 1.0)
        axis.set_ylim(0, max(0.1, math.ceil(highest * 20) / 20))
    elif means:
        # A band can be many times wider than what is measured: the means decide the range.
        low, high = min(means), max(means)
        room = 0.25 * (high - low) or 0.1 * abs(high) or 1.0
        axis.set_ylim(min(low - room, 0) if low < 0 else max(low - room, 0), high + room)
    if share:
        axis.yaxis.set_major_formatter(_tick)


def _tick(value: float, _: float) -> str:
    return f"{round(100 * value, 1):g} %"


def dots(path: Path, plan: Layout, name: str, label: str) -> None:
    """Draw a figure of every group with its interval; hollow dots are the seeds."""
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    spots = _spots(plan)
    blocks = len(plan.rows) if plan.facets.row else 0
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(plan.columns), figsize=(WIDTH, 1.2 + 0.27 * (len(spots) + blocks)),
            sharex=True, sharey=True, squeeze=False, layout=ConstrainedLayoutEngine(wspace=0.04),
        )  # fmt: skip
        for axis, column in zip(axes[0], plan.columns, strict=True):
            axis.set_title(_place_title(plan, None, column), fontsize=10)
            for n, member in enumerate(plan.groups):
                row = _value(member, plan.facets.row)
                if _at(plan, member, row, column):
                    spot = spots[str(row), plan.labels[n]]
                    _dot(axis, member, name, spot, _dot_color(plan, n))
            axis.set_xlim(*_range(plan, name))
            axis.xaxis.set_major_formatter(_tick)
            axis.grid(visible=False, axis="y")
            axis.tick_params(labelsize=9, length=0)
        _row_names(axes[0], plan, spots)
        figure.supxlabel(label, fontsize=10, color="#475569")
        _save(figure, path)


def _spots(plan: Layout) -> dict[tuple[str, str], float]:
    """Return each (row, arm)'s place on the vertical axis, top down, a gap before each row."""
    spots: dict[tuple[str, str], float] = {}
    y = 0.0
    for row in plan.rows:
        y -= 1.0 if plan.facets.row else 0.0
        for arm in plan.arms:
            spots[str(row), arm] = y
            y -= 1.0
    return spots


def _dot(axis: Axes, member: Group, name: str, y: float, color: str) -> None:
    seeds = list(member.figures(name).values())
    middle = member.estimate(name)
    if middle is None:
        return
    if middle.half is not None:
        ends = [middle.mean - middle.half, middle.mean + middle.half]
        axis.plot(ends, [y, y], color=color, linewidth=2.2, alpha=0.45, zorder=2)
        axis.plot(middle.mean, y, "o", color=color, markersize=7, zorder=4)
    axis.plot(
        seeds, [y] * len(seeds), "o", markersize=4.5, markerfacecolor="white",
        markeredgecolor=color, markeredgewidth=1.1, zorder=3,
    )  # fmt: skip


def _row_names(axes: Sequence[Axes], plan: Layout, spots: dict[tuple[str, str], float]) -> None:
    ticks = [(y, arm, False) for (_, arm), y in spots.items()]
    if plan.facets.row:
        for row in plan.rows:
            top = spots[str(row), plan.arms[0]] + 1.0
            ticks.append((top, f"{plan.facets.row} {say(plan.facets.row, row)}", True))
            for axis in axes:
                axis.axhline(top + 0.5, color="#cbd5e1", linewidth=0.8, zorder=0)
    axes[0].set_yticks([y for y, _, _ in ticks], [text for _, text, _ in ticks])
    for text, (_, _, bold) in zip(axes[0].get_yticklabels(), ticks, strict=True):
        text.set_fontweight("bold" if bold else "normal")
    heights = [y for y, _, _ in ticks]
    axes[0].set_ylim(min(heights) - 0.7, max(heights) + 0.7)


def _range(plan: Layout, name: str) -> tuple[float, float]:
    """Return limits that hold every seed, and intervals as far as a share can go."""
    values = [value for member in plan.groups for value in member.figures(name).values()]
    for member in plan.groups:
        middle = member.estimate(name)
        if middle is not None and middle.half is not None:
            values += [middle.mean - middle.half, middle.mean + middle.half]
    if not values:
        return 0.0, 1.0
    low, high = max(0.0, min(values)), min(1.0, max(values))
    room = 0.04 * (high - low) or 0.05
    return max(0.0, low - room), min(1.0, high + room)


def _place_title(plan: Layout, row: Any, column: Any) -> str:
    parts = []
    if plan.facets.column:
        word = "update" if column == 1 else "updates"
        parts.append(f"{say(plan.facets.column, column)} {word}")
    if plan.facets.row and row is not None:
        parts.append(f"{plan.facets.row} {say(plan.facets.row, row)}")
    return " · ".join(parts)


def _at(plan: Layout, member: Group, row: Any, column: Any) -> bool:
    here = (_value(member, plan.facets.row), _value(member, plan.facets.column))
    return here == (row, column)


def _value(member: Group, key: str | None) -> Any:
    return None if key is None else member.settings.get(key)


def _dot_color(plan: Layout, n: int) -> str:
    """Return the colour that the group has among the curves."""
    if not plan.facets.by_arm:
        return _color(plan, plan.labels[n])
    base = reference_of(plan.groups[n], plan.groups)
    return GREY if base is plan.groups[n] else PALETTE[0]


def _color(plan: Layout, arm: str) -> str:
    return PALETTE[plan.arms.index(arm) % len(PALETTE)]


def _legend(figure: Figure, plan: Layout, names: Sequence[str], colors: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=color, linewidth=2.2, label=name)
        for name, color in zip(names, colors, strict=True)
    ]
    if any(cell.alarm_step is not None for member in plan.groups for cell in member.cells):
        cross = Line2D([], [], color=GREY, marker="x", linestyle="", label="collapse alarm")
        handles.append(cross)
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5))


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, dpi=DPI)
    partial.replace(path)
    plt.close(figure)
