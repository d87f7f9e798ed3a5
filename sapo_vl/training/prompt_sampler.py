"""The records of each step: the split, reshuffled every epoch, or fixed shares of tasks.

    sampler.step(3, cursor=192, rank=0, ranks=2)        # this rank's Draws of step 3
    sampler.resample((3, 1), 0, 2, taken, dropped)      # replacements of the same tasks

Draws are pure functions of seed and step, so a resumed run continues exactly, and every rank finds
its share without communication.

With `data.ratio` every mini-batch holds a fixed share of each task, and a task's records are
reshuffled after each pass over them. The SAPO paper trains the same way: a fixed ratio of tasks, in
mini-batches large enough to hold every task.

With data.rest_after a shuffle passes over the records that rest (pools.py), so that its position is
not a function of the step: a `DrawStart` holds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class DrawStart:
    """Where a step's draws begin, and what they pass over."""

    positions: Mapping[str, int]  # by task: records that its shuffle has drawn or passed over
    resting: Mapping[int, int]  # record -> last epoch of its task's shuffle in which it rests


class Shuffle:
    """A task's records, in an order of its own in every epoch."""

    def __init__(self, members: Sequence[int], seed: Sequence[int]) -> None:
        """Epoch e has the order of numpy's generator with the seed (*seed, e)."""
        self.members, self._seed = members, seed
        self._cached: tuple[int, np.ndarray] | None = None  # epoch, order

    def walk(self, start: int, count: int, resting: Mapping[int, int]) -> tuple[list[int], int]:
        """Return `count` records from position `start` on that don't rest, and where they end.

        Where all records rest, epochs go by until their rest is over.
        """
        indices: list[int] = []
        position, members = start, self.members
        while len(indices) < count:
            epoch, place = divmod(position, len(members))
            index = members[int(self._order(epoch)[place])]
            if resting.get(index, -1) < epoch:
                indices.append(index)
            position += 1
        return indices, position

    def _order(self, epoch: int) -> np.ndarray:
        cached = self._cached  # threads share it
        if cached is None or cached[0] != epoch:
            random = np.random.default_rng([*self._seed, epoch])
            self._cached = cached = (epoch, random.permutation(len(self.members)))
        return cached[1]


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
        self._shuffle = Shuffle(range(len(samples)), [self._seed])  # without data.ratio

    def step(
        self, step: int, cursor: int, rank: int, ranks: int, start: DrawStart | None = None
    ) -> list[Draw]:
        """Return a rank's records of a training step; `cursor` counts the records drawn before it.

        With data.ratio each mini-batch holds its shares, dealt to the ranks round-robin. Without
        `start` no record rests.
        """
        copies = Counter[int]()  # record -> draws so far, over all ranks
        start = start or self.start(step, cursor)
        if self._mixture is None:
            indices, _ = self._shuffle.walk(start.positions[""], self._prompts, start.resting)
            return [Draw(i, "", None, _count(copies, i)) for i in indices][rank::ranks]
        draws = []
        positions = start.positions
        for number in range(step * self._mini_batches, (step + 1) * self._mini_batches):
            pairs, positions = self._mixture.walk(positions, start.resting)
            mini_batch = [
                Draw(index, task, number % self._mini_batches, _count(copies, index))
                for task, index in pairs
            ]
            draws += self._mixture.deal(mini_batch, number, rank, ranks)
        return draws

    def start(self, step: int, cursor: int) -> DrawStart:
        """Return where a step's draws begin if no record has rested so far."""
        if self._mixture is None:
            return DrawStart({"": cursor}, {})
        return DrawStart(self._mixture.positions(step * self._mini_batches), {})

    def end(self, step: int, start: DrawStart) -> Mapping[str, int]:
        """Return the positions after the draws of a step that begins at `start`."""
        if self._mixture is None:
            _, end = self._shuffle.walk(start.positions[""], self._prompts, start.resting)
            return {"": end}
        positions = start.positions
        for _ in range(self._mini_batches):
            _, positions = self._mixture.walk(positions, start.resting)
        return positions

    def epoch(self, task: str, position: int) -> int:
        """Return the epoch of a position in the shuffle of a task (Draw.task)."""
        return position // len(self._members[task])

    def resample(
        self,
        place: tuple[int, int],
        rank: int,
        ranks: int,
        taken: Sequence[Draw],
        dropped: Sequence[Draw],
        resting: Container[int] = (),
    ) -> list[Draw]:
        """Return a replacement for each of `dropped`, of the same task, not `taken` nor resting.

        `place` is (step, round): a round's replacements are drawn at random from the whole task; a
        task with no records left gives none. Ranks draw independently, so two of them may draw the
        same record; its responses differ then.
        """
        random = np.random.default_rng([self._seed, *place, rank])
        used = {draw.index for draw in taken}
        unused = {
            task: (
                i
                for i in random.permutation(self._members[task]).tolist()
                if i not in used and i not in resting
            )
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
        self._seed = seed
        self._shuffles = {
            task: Shuffle(members[task], [seed, number]) for number, task in enumerate(ratios)
        }
        self.places = _places(ratios, size)  # task -> records of it in each mini-batch
        empty = [task for task, places in self.places.items() if places == 0]
        if empty:
            raise ConfigError(
                f"data.ratio: a mini-batch of {size} records has no place for {', '.join(empty)}: "
                "raise rollout.prompts"
            )

    def batch(self, number: int) -> list[tuple[str, int]]:
        """Return the (task, record index) pairs of mini-batch `number`, task by task."""
        return self.walk(self.positions(number), {})[0]

    def positions(self, number: int) -> dict[str, int]:
        """Return each task's position before mini-batch `number` if no record has rested."""
        return {task: number * places for task, places in self.places.items()}

    def walk(
        self, positions: Mapping[str, int], resting: Mapping[int, int]
    ) -> tuple[list[tuple[str, int]], dict[str, int]]:
        """Return the pairs of a mini-batch that begins at `positions`, and the positions after it.

        `resting` is DrawStart's.
        """
        pairs: list[tuple[str, int]] = []
        after: dict[str, int] = {}
        for task, places in self.places.items():
            indices, after[task] = self._shuffles[task].walk(positions[task], places, resting)
            pairs += [(task, index) for index in indices]
        return pairs, after

    def deal(self, items: Sequence[T], number: int, rank: int, ranks: int) -> list[T]:
        """Return a rank's share of mini-batch `number`, shuffled.

        All ranks get the same number of items if `ranks` divides it.
        """
        own = list(items[rank::ranks])
        order = np.random.default_rng([self._seed, number, rank]).permutation(len(own))
        return [own[i] for i in order]


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
