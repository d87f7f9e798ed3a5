"""Which groups a page shows, and in which order: filters, sorts and search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sapo_vl.pages.viewer.files import RolloutFiles, StoredGroup

CONFIDENT = 0.9
"""Geometric mean of a response's token probabilities from which on the policy was sure of it."""

DRIFT_SHARE = 0.1
"""Share of a step's groups that "largest drift" shows."""


def confident_and_wrong(group: StoredGroup) -> bool:
    """Whether a wrong response's tokens had a mean probability of CONFIDENT."""
    limit = math.log(CONFIDENT)
    return any(
        r.wrong and r.mean_logprob is not None and r.mean_logprob >= limit for r in group.responses
    )


def _verdicts(group: StoredGroup) -> list[bool]:
    return [r.correct for r in group.responses if r.valid]


FILTERS: dict[str, tuple[str, Callable[[StoredGroup], bool]]] = {
    "confident": ("wrong but confident", confident_and_wrong),
    "cut": ("truncated", lambda g: any(r.finish_reason == "length" for r in g.responses)),
    "no_verdict": ("no verdict", lambda g: not all(r.valid for r in g.responses)),
    "all_right": ("all right", lambda g: bool(_verdicts(g)) and all(_verdicts(g))),
    "all_wrong": ("all wrong", lambda g: bool(_verdicts(g)) and not any(_verdicts(g))),
    "mixed": ("right and wrong", lambda g: len(set(_verdicts(g))) == 2),
}
"""Label and rule of each filter on one group; "drift" compares a step's groups."""

DRIFT = "drift"

LABELS = {"": "all groups", **{name: label for name, (label, _) in FILTERS.items()}}
LABELS[DRIFT] = "largest drift"


def mean_reward(group: StoredGroup) -> float:
    """Return the mean reward of the responses that have a verdict; 0 without any."""
    rewards = [r.reward for r in group.responses if r.valid]
    return sum(rewards) / len(rewards) if rewards else 0.0


def drift(group: StoredGroup) -> float:
    """Return the largest |log ratio| of a group's tokens, without any the largest mismatch."""
    found = group.largest("largest_log_ratio")
    return found if found >= 0 else group.largest("largest_mismatch")


def spread(group: StoredGroup) -> float:
    """Return the standard deviation of a group's rewards."""
    return float(np.std([r.reward for r in group.responses]))


SORTS: dict[str, tuple[str, Callable[[StoredGroup], float]]] = {
    "": ("as sampled", lambda g: 0.0),
    "lowest": ("lowest reward", mean_reward),
    "highest": ("highest reward", lambda g: -mean_reward(g)),
    "spread": ("largest spread of rewards", lambda g: -spread(g)),
    "longest": ("longest response", lambda g: -g.largest("tokens")),
    "log_ratio": ("largest log ratio", lambda g: -g.largest("largest_log_ratio")),
    "mismatch": ("largest sampler-learner difference", lambda g: -g.largest("largest_mismatch")),
}
"""Label and key of each order, smallest key first."""


@dataclass(frozen=True, slots=True)
class Query:
    """What the reader asked for; unknown names mean all, or as sampled."""

    task: str = ""
    show: str = ""
    sort: str = ""
    search: str = ""

    def apply(self, files: RolloutFiles, step: int) -> list[StoredGroup]:
        """Return the groups of the step to show, in order."""
        everything = files.groups(step)
        kept = [g for g in everything if self.task in ("", g.task)]
        if self.show == DRIFT:
            limit = drift_limit(everything)
            kept = [g for g in kept if drift(g) >= limit]
        elif self.show in FILTERS:
            kept = [g for g in kept if FILTERS[self.show][1](g)]
        words = self.search.casefold().split()
        if words:
            problems = files.problems(step)
            kept = [g for g in kept if _matches(words, f"{g.id} {problems[g.key]}".casefold())]
        return sorted(kept, key=SORTS.get(self.sort, SORTS[""])[1])


def _matches(words: Sequence[str], text: str) -> bool:
    return all(word in text for word in words)


def drift_limit(groups: Sequence[StoredGroup]) -> float:
    """Return the drift from which on a group belongs to the step's DRIFT_SHARE with the largest."""
    found = sorted((drift(group) for group in groups), reverse=True)
    return found[max(0, math.ceil(DRIFT_SHARE * len(found)) - 1)] if found else 0.0


def flags(group: StoredGroup, limit: float) -> list[str]:
    """Return the names of the filters that show a group; `limit` is its step's `drift_limit`."""
    names = [name for name, (_, rule) in FILTERS.items() if rule(group)]
    return names + [DRIFT] * (drift(group) >= limit)
