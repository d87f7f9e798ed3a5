"""The records of each step: the split, reshuffled every epoch, or fixed shares of tasks.

    sampler.step(3, cursor=192, rank=0, ranks=2)        # this rank's Draws of step 3
    sampler.resample((3, 1), 0, 2, taken, dropped)      # replacements of the same tasks

Draws are pure functions of seed and step, so a resumed run continues exactly, and every rank finds
its share without communication.

With `data.ratio` every mini-batch holds a fixed share of each task, and a task's records are
reshuffled after each pass over them. The SAPO paper trains the same way: a fixed ratio of tasks, in
mini-batches large enough to hold every task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.model.usable_samples import UsableSamples

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draw:
    """A record to sample rollouts for."""

    index: int  # of the record in the split
    task: str  # the task whose share it fills; empty without data.ratio
    mini_batch: int | None  # the mini-batch it belongs to; None: any
    copy: int = 0  # 0 for the record's first draw in the step; further ones get seeds of their own


class PromptSampler:
    """Draws a run's records; see the module's docstring."""

    def __init__(self, config: Config, samples: UsableSamples) -> None:
        """Group the records by task. Raises ConfigError when data.ratio doesn't fit them."""
        self._seed = config.run.seed
        self._prompts = config.rollout.prompts
        self._mini_batches = config.algorithm.num_mini_batches
        self._members: dict[str, Sequence[int]] = {"": range(len(samples))}
        self._mixture: TaskMixture | None = None
        if config.data.ratio:
            self._members = _members_by_task(config, samples)
            size = config.rollout.prompts // self._mini_batches
            self._mixture = TaskMixture(self._members, config.data.ratio, size, config.run.seed)

    def step(self, step: int, cursor: int, rank: int, ranks: int) -> list[Draw]:
        """Return a rank's records of a training step; `cursor` counts the records drawn before it.

        With data.ratio each mini-batch holds its shares, dealt to the ranks round-robin.
        """
        copies = Counter[int]()  # record -> draws so far, over all ranks
        if self._mixture is None:
            indices = shuffled_indices(len(self._members[""]), self._seed, cursor, self._prompts)
            return [Draw(i, "", None, _count(copies, i)) for i in indices][rank::ranks]
        draws = []
        for number in range(step * self._mini_batches, (step + 1) * self._mini_batches):
            mini_batch = [
                Draw(index, task, number % self._mini_batches, _count(copies, index))
                for task, index in self._mixture.batch(number)
            ]
            draws += self._mixture.deal(mini_batch, number, rank, ranks)
        return draws

    def resample(
        self,
        place: tuple[int, int],
        rank: int,
        ranks: int,
        taken: Sequence[Draw],
        dropped: Sequence[Draw],
    ) -> list[Draw]:
        """Return a replacement for each of `dropped`, of the same task and not in `taken`.

        `place` is (step, round): a round's replacements are drawn at random from the whole task; a
        task with no records left gives none. Ranks draw independently, so two of them may draw the
        same record; its responses differ then.
        """
        random = np.random.default_rng([self._seed, *place, rank])
        used = {draw.index for draw in taken}
        unused = {
            task: (i for i in random.permutation(self._members[task]).tolist() if i not in used)
            for task in dict.fromkeys(draw.task for draw in dropped)
        }
        indices = [next(unused[draw.task], None) for draw in dropped]
        # On one rank a replacement is the record's first draw of the step.
        copy = 0 if ranks == 1 else 1 + place[1] * ranks + rank + self._prompts
        return [
            Draw(index, draw.task, draw.mini_batch, copy)
            for index, draw in zip(indices, dropped, strict=True)
            if index is not None
        ]


def _count(copies: Counter[int], index: int) -> int:
    """Count a draw of the record; return how often it was drawn before."""
    copies[index] += 1
    return copies[index] - 1


class TaskMixture:
    """Mini-batches with a fixed number of records of each task."""

    def __init__(
        self,
        members: Mapping[str, Sequence[int]],
        ratios: Mapping[str, float],
        size: int,
        seed: int = 0,
    ) -> None:
        """Give each task its places in a mini-batch of `size` records, over all ranks.

        `members` holds each task's record indices, `ratios` its relative share (3 and 1 mean three
        quarters and one quarter). Raises ConfigError when a share is not positive or a task gets no
        place.
        """
        assert set(members) == set(ratios), (sorted(members), sorted(ratios))
        for task, indices in members.items():
            if not indices or not ratios[task] > 0:
                raise ConfigError(
                    f"data.ratio: {task} has {len(indices)} records and ratio {ratios[task]}; both "
                    "must be over 0"
                )
        self._members, self._seed = dict(members), seed
        self._orders: dict[str, tuple[int, np.ndarray]] = {}  # task -> (epoch, permutation)
        self.places = _places(ratios, size)  # task -> records of it in each mini-batch
        empty = [task for task, places in self.places.items() if places == 0]
        if empty:
            raise ConfigError(
                f"data.ratio: a mini-batch of {size} records has no place for {', '.join(empty)}: "
                "raise rollout.prompts"
            )

    def batch(self, number: int) -> list[tuple[str, int]]:
        """Return the (task, record index) pairs of mini-batch `number`, task by task."""
        return [
            (task, self._record(position, task, number * places + place))
            for position, (task, places) in enumerate(self.places.items())
            for place in range(places)
        ]

    def deal(self, items: Sequence[T], number: int, rank: int, ranks: int) -> list[T]:
        """Return a rank's share of mini-batch `number`, shuffled.

        All ranks get the same number of items if `ranks` divides it.
        """
        own = list(items[rank::ranks])
        order = np.random.default_rng([self._seed, number, rank]).permutation(len(own))
        return [own[i] for i in order]

    def _record(self, position: int, task: str, count: int) -> int:
        """Return the record that is the task's `count`-th draw of the run."""
        epoch, place = divmod(count, len(self._members[task]))
        cached_epoch, order = self._orders.get(task, (None, np.empty(0)))
        if cached_epoch != epoch:
            random = np.random.default_rng([self._seed, position, epoch])
            order = random.permutation(len(self._members[task]))
            self._orders[task] = (epoch, order)
        return self._members[task][int(order[place])]


def shuffled_indices(length: int, seed: int, cursor: int, count: int) -> list[int]:
    """Return the `count` record indices from position `cursor` on, reshuffled every epoch.

    A pure function: the order of epoch e is the permutation of numpy's generator seeded (seed, e).
    """
    stream = _shuffled_stream(length, seed, cursor)
    return [index for index, _ in zip(stream, range(count), strict=False)]


def _shuffled_stream(length: int, seed: int, cursor: int) -> Iterator[int]:
    epoch, position = divmod(cursor, length)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(length)
        yield from (int(i) for i in order[position:])
        epoch, position = epoch + 1, 0


def _members_by_task(config: Config, samples: UsableSamples) -> dict[str, Sequence[int]]:
    members = dict[str, list[int]]()
    for index, task in enumerate(samples.column(config.data.ratio_by)):
        members.setdefault(str(task), []).append(index)
    for task in config.data.ratio:
        if task not in members:
            raise ConfigError(
                f"data.ratio names {task!r}, which is no {config.data.ratio_by} of the "
                f"records{nearest(task, members)}; known: {', '.join(sorted(members))}"
            )
    return {task: members[task] for task in config.data.ratio}


def _places(ratios: Mapping[str, float], size: int) -> dict[str, int]:
    """Return whole places for each ratio, rounded by largest remainder."""
    total = sum(ratios.values())
    exact = {task: size * ratio / total for task, ratio in ratios.items()}
    places = {task: int(value) for task, value in exact.items()}
    by_remainder = sorted(exact, key=lambda task: places[task] - exact[task])
    for task in by_remainder[: size - sum(places.values())]:
        places[task] += 1
    return places
