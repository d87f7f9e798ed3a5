"""A step's rewards by term and by task, and why responses have no verdict. Pure Python.

One curve of the weighted sum hides which of its terms rises: a policy may learn the format and
nothing else. `term_sums` adds up this rank's responses under names that `sum_by_name` adds up over
ranks, whose tasks and causes differ; `term_rates` turns the sums into entries of a metrics row:

    reward/term/boxed            mean score of the responses with a verdict of this term
    reward/term/boxed/sum        the same for the task `sum`
    reward/task/sum              mean reward of a task
    accuracy/task/sum            share of its responses that the first term accepts
    no_verdict                   {"slow.py:score: timeout: no answer within 2 s": 7}

Left out: tasks in a step with more than MAX_TASKS of them, whose curves of a few responses would
say nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sapo_vl.schema import Outcome, RolloutGroup

MAX_TASKS = 32
"""Tasks of a step whose rewards are told apart."""

MAX_CAUSES = 32
"""Causes of missing verdicts in a metrics row, the commonest first."""

_CAUSE = "no_verdict"


def term_sums(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return (sum, count) pairs of this rank's groups as `NAME|sum` and `NAME|count`."""
    sums = defaultdict[str, float](float)

    def add(name: str, value: float) -> None:
        sums[f"{name}|sum"] += value
        sums[f"{name}|count"] += 1

    for group in groups:
        task = group.prompt.sample.task
        for rollout in group.rollouts:
            reward = rollout.verdict
            labels = labels_of(list(reward.terms))
            for label, verdict in zip(labels, reward.terms.values(), strict=True):
                if verdict.outcome is Outcome.NO_VERDICT:
                    add(f"{_CAUSE}|{label}: {verdict.cause}", 0.0)
                else:
                    add(f"reward/term/{label}", verdict.score)
                    add(f"reward/term/{label}|{task}", verdict.score)
            if reward.valid:
                add(f"reward/task|{task}", reward.value)
                add(f"accuracy/task|{task}", float(reward.correct))
    return dict(sums)


def sum_by_name(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums of all ranks; a name that a rank doesn't have counts 0 there."""
    total = defaultdict[str, float](float)
    for part in parts:
        for name, value in part.items():
            total[name] += value
    return dict(total)


def term_rates(sums: Mapping[str, float]) -> dict[str, Any]:
    """Return the entries of a metrics row; see the module's docstring."""
    counts = {
        name.removesuffix("|count"): value
        for name, value in sums.items()
        if name.endswith("|count")
    }
    tasks = {name.partition("|")[2] for name in counts if name.startswith("reward/task|")}
    rates: dict[str, Any] = {}
    causes = Counter[str]()
    for name, count in sorted(counts.items()):
        kind, bar, detail = name.partition("|")
        if kind == _CAUSE:
            causes[detail] += int(count)
        elif not bar:
            rates[kind] = sums[f"{name}|sum"] / count
        elif len(tasks) <= MAX_TASKS:
            rates[f"{kind}/{detail}"] = sums[f"{name}|sum"] / count
    if causes:
        rates[_CAUSE] = dict(causes.most_common(MAX_CAUSES))
    return rates


def labels_of(names: Sequence[str]) -> list[str]:
    """Return the terms' names without the folders of a user's file, where that is unambiguous."""
    short = [PurePath(name).name if "/" in name else name for name in names]
    return short if len(set(short)) == len(short) else list(names)


def commonest_cause(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the commonest cause of missing verdicts over metrics rows; None without any."""
    causes = Counter[str]()
    for row in rows:
        causes.update(row.get(_CAUSE) or {})
    return causes.most_common(1)[0][0] if causes else None
