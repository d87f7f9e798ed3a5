"""Which records a step trains on: all of the split in turn, or fixed shares of its tasks.

Both are pure functions of the seed and the step, so that a resumed run goes on exactly, and every
rank finds its own share without asking the others.

    draws.step(3, cursor=192, rank=0, ranks=2)    # this rank's Picks of step 3
    draws.instead(3, 1, 0, picks, dropped)        # others of the same tasks, for dynamic sampling
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.training import setup as stages
from sapo_vl.training.mixing import Mixture


@dataclass(frozen=True, slots=True)
class Pick:
    """A record to be sampled from."""

    index: int  # number of the record in the split
    source: str  # the task whose share it fills; empty without data.ratio
    mini_batch: int | None  # the mini-batch that it belongs to; none: any


class Draws:
    """Draws a run's records; see the module."""

    def __init__(self, config: Config, samples: stages.UsableSamples) -> None:
        """Sort the records by task. Raises ConfigError when data.ratio doesn't fit them."""
        self._seed = config.run.seed
        self._prompts = config.rollout.prompts
        self._count = config.sapo.mini_batches
        self._members: dict[str, Sequence[int]] = {"": range(len(samples))}
        self._mixture: Mixture | None = None
        if config.data.ratio:
            self._members = _by_source(config, samples)
            sizes = {name: len(own) for name, own in self._members.items()}
            size = config.rollout.prompts // config.sapo.mini_batches
            self._mixture = Mixture(sizes, config.data.ratio, size, config.run.seed)

    def step(self, step: int, cursor: int, rank: int, ranks: int) -> list[Pick]:
        """Return a rank's records of a rollout step; `cursor` counts the records drawn before it.

        With data.ratio each mini-batch holds its shares, and they are dealt to the ranks in turn.
        """
        if self._mixture is None:
            drawn = stages.draw(len(self._members[""]), self._seed, cursor, self._prompts)
            return [Pick(index, "", None) for index in drawn[rank::ranks]]
        return [
            Pick(self._members[pick.source][pick.index], pick.source, number)
            for number in range(self._count)
            for pick in self._mixture.batch(step * self._count + number, rank, ranks)
        ]

    def instead(
        self, step: int, turn: int, rank: int, taken: Sequence[Pick], dropped: Sequence[Pick]
    ) -> list[Pick]:
        """Return a record for each of `dropped`, of the same source, none of `taken`.

        At random from the whole source; a source that has no record left gives none. Ranks draw for
        themselves, so two of them may draw the same record.
        """
        random = np.random.default_rng([self._seed, step, turn, rank])
        used = {pick.index for pick in taken}
        left = {
            source: (i for i in random.permutation(self._members[source]).tolist() if i not in used)
            for source in dict.fromkeys(pick.source for pick in dropped)
        }
        found = [(next(left[pick.source], None), pick) for pick in dropped]
        return [Pick(i, pick.source, pick.mini_batch) for i, pick in found if i is not None]


def _by_source(config: Config, samples: stages.UsableSamples) -> dict[str, Sequence[int]]:
    ratio, members = config.data.ratio, dict[str, list[int]]()
    for index, name in enumerate(samples.column(config.data.ratio_by)):
        members.setdefault(str(name), []).append(index)
    for name in ratio:
        if name not in members:
            raise ConfigError(
                f"data.ratio names {name!r}, which is no {config.data.ratio_by} of the "
                f"records{nearest(name, members)}; known: {', '.join(sorted(members))}"
            )
    return {name: members[name] for name in ratio}
