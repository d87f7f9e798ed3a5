"""Held-out accuracy before and after, and between runs: paired by problem, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sapo_vl.errors import DataError
from sapo_vl.evaluation import graded
from sapo_vl.evaluation.graded import HeldOut
from sapo_vl.evaluation.stats import Paired, interval, paired
from sapo_vl.pages.report.load import LoadedRun
from sapo_vl.runs.pages import PageTable

ALPHA = 0.05
"""Below this p a difference is called one."""

MOST_TASKS = 30
"""Rows of the table by task; the tasks with the most problems are shown."""


@dataclass(frozen=True)
class AccuracyChange:
    """What an evaluation says against an earlier one, or another run's."""

    sentence: str  # the outcome in words; why there is none, where there is none
    overall: PageTable | None = None  # sampled and greedy
    tasks: PageTable | None = None
    notes: Sequence[str] = field(default_factory=list)


def of_run(run: LoadedRun) -> AccuracyChange:
    """Compare a run's last evaluation with the one before training."""
    if run.before is None:
        if not run.of_phase("train"):
            return AccuracyChange("Nothing was evaluated: the run has taken no training step.")
        return AccuracyChange(
            "Nothing to compare with: eval/before.json or eval/before.jsonl is missing."
        )
    if run.after is None:
        accuracy = _accuracy(run.before)
        return AccuracyChange(
            f"Before training {accuracy} of the held-out answers were right. The run has not been "
            "evaluated since."
        )
    step = run.after.summary.get("step", "?")
    labels = ("before", f"after step {step}")
    return _change(run.before, run.after, labels)


def between(first: LoadedRun, second: LoadedRun) -> AccuracyChange:
    """Compare the last evaluations of two runs, if they are of the same problems."""
    if first.after is None or second.after is None:
        missing = first if first.after is None else second
        return AccuracyChange(f"{missing.name} has no evaluation to compare.")
    try:
        graded.check_same_problems(first.after, second.after)
    except DataError as error:
        return AccuracyChange(f"Not comparable: {error}.")
    return _change(first.after, second.after, (first.name, second.name))


def _change(first: HeldOut, second: HeldOut, labels: tuple[str, str]) -> AccuracyChange:
    whole = _paired(first, second, "sampled")
    if whole is None:
        return AccuracyChange("No problem has a verdict on both sides: nothing can be compared.")
    notes = [
        f"The two were evaluated with other settings, {difference}."
        for difference in graded.differences(first, second)
    ]
    low, high = whole.paired.ci95
    if whole.paired.p_value >= ALPHA and not low <= 0 <= high:
        notes.append(
            f"The interval excludes 0, yet p is not below {ALPHA}: with so few problems a "
            "bootstrap interval is too narrow, and p is the one to trust."
        )
    rows = [["all problems, sampled", *_cells(whole)]]
    greedy = _paired(first, second, "greedy")
    if greedy is not None:
        rows.append(["all problems, greedy", *_cells(greedy)])
    columns = ["", "problems", *labels, "difference", "gained", "lost", "p"]
    sizes = {task: len(first.verdicts("sampled", task)) for task in first.tasks()}
    shown = sorted(sorted(sizes, key=lambda task: -sizes[task])[:MOST_TASKS])
    by_task = {task: _paired(first, second, "sampled", task) for task in shown}
    tasks = [[task, *_cells(found)] for task, found in by_task.items() if found is not None]
    if len(sizes) > MOST_TASKS:
        notes.append(f"The {MOST_TASKS} tasks with the most problems of {len(sizes)} are shown.")
    for side, one, other in ((labels[0], first, second), (labels[1], second, first)):
        only = len(one.verdicts("sampled").keys() - other.verdicts("sampled").keys())
        if only:
            notes.append(f"Left out are problems with a verdict of one side alone, {side}: {only}.")
    return AccuracyChange(
        _sentence(whole.paired, labels),
        PageTable(columns, rows),
        PageTable(["task", *columns[1:]], tasks) if len(tasks) > 1 else None,
        notes,
    )


def _sentence(found: Paired, labels: tuple[str, str]) -> str:
    low, high = (100 * end for end in found.ci95)
    if found.p_value >= ALPHA:
        verdict = "No clear difference"
    else:
        verdict = "Better" if found.difference > 0 else "Worse"
    return (
        f"{verdict}: {100 * found.first:.1f} % {labels[0]}, {100 * found.second:.1f} % "
        f"{labels[1]}. That is {100 * found.difference:+.1f} points (95 % interval {low:+.1f} to "
        f"{high:+.1f}, p {p_text(found.p_value)}), paired on {found.problems} held-out problems, "
        f"of which {found.gained} gained and {found.lost} lost."
    )


class PairedShares(NamedTuple):
    """A paired comparison, with the interval of each side's own accuracy."""

    paired: Paired
    first: tuple[float, float]
    second: tuple[float, float]


def _paired(
    first: HeldOut, second: HeldOut, mode: str, task: str | None = None
) -> PairedShares | None:
    """Compare two evaluations on their common problems; None where there are none."""
    a, b = first.verdicts(mode, task), second.verdicts(mode, task)
    common = [name for name in a if name in b]
    if not common:
        return None
    ends = [interval(np.array([np.mean(side[name]) for name in common]), common) for side in (a, b)]
    return PairedShares(paired(a, b), ends[0], ends[1])


def _cells(found: PairedShares) -> list[str]:
    one = found.paired
    low, high = (100 * end for end in one.ci95)
    return [
        str(one.problems),
        _share(one.first, found.first),
        _share(one.second, found.second),
        f"{100 * one.difference:+.1f} ({low:+.1f} to {high:+.1f})",
        str(one.gained),
        str(one.lost),
        p_text(one.p_value),
    ]


def _share(value: float, ends: Sequence[float] | None) -> str:
    text = f"{100 * value:.1f} %"
    return text if not ends else f"{text} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def _accuracy(found: HeldOut) -> str:
    samples = found.summary.get("samples")
    value: Any = found.summary.get(f"avg@{samples}")
    return "an unknown share" if value is None else f"{100 * value:.1f} %"


def p_text(p: float) -> str:
    """Return a p-value; below 0.0001 nothing more is said."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def overview(runs: Sequence[LoadedRun]) -> PageTable:
    """Return a row per run: steps, held-out accuracy before and after, seconds."""
    columns = ["run", "objective", "steps", "before", "after", "greedy after", "time"]
    return PageTable(columns, [_overview_row(run) for run in runs])


def _overview_row(run: LoadedRun) -> list[str]:
    planned = run.steps_planned
    steps = str(run.steps_done) if planned is None else f"{run.steps_done} of {planned}"
    before, after = run.before, run.after
    greedy = after.summary.get("greedy") if after else None
    return [
        run.name,
        str(run.settings.get("objective", "?")),
        steps,
        _with_interval(before.summary) if before else "-",
        _with_interval(after.summary) if after else "-",
        "-" if greedy is None else f"{100 * greedy:.1f} %",
        duration(sum(run.seconds.values())) if run.seconds else "-",
    ]


def _with_interval(summary: Mapping[str, Any]) -> str:
    value = summary.get(f"avg@{summary.get('samples')}")
    return "-" if value is None else _share(value, summary.get("ci95"))


def duration(seconds: float) -> str:
    """Return seconds as 42 s, 8 min 30 s or 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
