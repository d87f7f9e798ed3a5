"""Difficulty pools: records that were always right, or always wrong, rest for some epochs.

A group whose responses are all right or all wrong has no gradient under group-relative advantages.
With data.rest_after = k a record whose last k groups were all right is in the easy pool, one whose
last k were all wrong in the hard pool; either rests: the shuffle passes over it for the next
data.rest_epochs epochs of its task, and dynamic sampling doesn't draw it. Then one more group
decides: a mixed one sends it back for good, another of the same kind to the pool again.

The pools of a step hold the results of the steps before it that were over when its batch began to
be sampled, which with rollout.ahead = K are those up to K + 1 steps earlier. Results come from all
ranks and the pools are part of a checkpoint, so that configuration and seed determine the draws.
Responses without a verdict don't count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sapo_vl.config import Config
from sapo_vl.schema import RolloutGroup
from sapo_vl.training.prompt_sampler import Draw, DrawStart, PromptSampler

EASY, HARD = "easy", "hard"


class PassCount(NamedTuple):
    """How often a record's group of responses was right."""

    record: int  # index in the split
    task: str  # Draw.task
    right: int
    judged: int  # responses with a verdict

    @property
    def pool(self) -> str | None:
        """The pool that this group speaks for; None: neither."""
        if self.judged and self.right in (0, self.judged):
            return EASY if self.right else HARD
        return None


def pass_counts(draws: Sequence[Draw], groups: Sequence[RolloutGroup]) -> list[PassCount]:
    """Return the pass count of each group; `draws` holds the draw that it is of."""
    return [
        PassCount(
            draw.index,
            draw.task,
            sum(r.verdict.correct for r in group.rollouts if r.verdict.valid),
            sum(r.verdict.valid for r in group.rollouts),
        )
        for draw, group in zip(draws, groups, strict=True)
    ]


class DifficultyPools:
    """The records that rest, and where each step's draws begin; the same on all ranks."""

    def __init__(self, config: Config, sampler: PromptSampler) -> None:
        """Start with empty pools, in which nothing changes while data.rest_after is 0."""
        self._after, self._epochs = config.data.rest_after, config.data.rest_epochs
        self._sampler = sampler
        self._streaks: dict[int, tuple[str, int]] = {}  # record -> pool, groups in a row
        self._resting: dict[int, tuple[str, int]] = {}  # record -> task, last epoch of its rest
        self._positions: dict[int, Mapping[str, int]] = {}  # step -> DrawStart.positions

    @property
    def on(self) -> bool:
        """Whether any record may rest."""
        return self._after > 0

    def begin(self, step: int, cursor: int) -> DrawStart | None:
        """Return where the draws of `step` begin, by the results so far; None without pools.

        Steps begin in order; one that is begun again, as its sampling was interrupted, gets the
        same. `cursor` counts the records drawn before it.
        """
        if not self.on:
            return None
        if step not in self._positions:
            self._positions[step] = self._sampler.start(step, cursor).positions
        resting = {index: until for index, (_, until) in self._resting.items()}
        start = DrawStart(self._positions[step], resting)
        self._positions[step + 1] = self._sampler.end(step, start)
        return start

    def record(self, step: int, counts: Sequence[PassCount]) -> dict[str, float]:
        """Take in the groups of a finished step, of all ranks; return the pools' sizes."""
        positions = self._positions[step + 1]
        for count in counts:
            if count.judged:
                self._count(count, positions)
        self._resting = {
            index: (task, until)
            for index, (task, until) in self._resting.items()
            if until >= self._sampler.epoch(task, positions[task])
        }
        self._positions = {at: known for at, known in self._positions.items() if at > step}
        sizes = Counter(self._streaks[index][0] for index in self._resting)
        return {
            "pool/resting": float(sizes.total()),
            "pool/easy": float(sizes[EASY]),
            "pool/hard": float(sizes[HARD]),
        }

    def _count(self, count: PassCount, positions: Mapping[str, int]) -> None:
        index, pool = count.record, count.pool
        if pool is None:
            self._streaks.pop(index, None)
            self._resting.pop(index, None)  # drawn twice in the step
            return
        before, length = self._streaks.get(index, (pool, 0))
        length = length + 1 if before == pool else 1
        self._streaks[index] = (pool, length)
        if length >= self._after:
            drawn = self._sampler.epoch(count.task, positions[count.task] - 1)
            self._resting[index] = (count.task, drawn + self._epochs)
        else:
            self._resting.pop(index, None)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the pools in plain types, for a checkpoint; None without pools."""
        if not self.on:
            return None
        return {
            "streaks": [[index, *streak] for index, streak in self._streaks.items()],
            "resting": [[index, *rest] for index, rest in self._resting.items()],
            "positions": [[step, dict(known)] for step, known in self._positions.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore the pools of a checkpoint."""
        if state is None:
            return
        self._streaks = {index: (pool, length) for index, pool, length in state["streaks"]}
        self._resting = {index: (task, until) for index, task, until in state["resting"]}
        self._positions = dict(state["positions"])
