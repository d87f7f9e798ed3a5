"""Several sources in fixed shares, kept in every mini-batch.

    mixture = Mixture({"count": 4000, "geometry": 900}, {"count": 3, "geometry": 1}, size=64)
    mixture.batch(0)                        # 48 Picks of count, 16 of geometry, shuffled
    mixture.batch(0, rank=1, ranks=4)       # the 16 of rank 1: 12 and 4

A mini-batch is a pure function of the seed and its number: nothing is to be saved for a resume, and
every rank can name every other's share. Each source is walked through in an order of its own, new
in each epoch. The SAPO paper trains so: a fixed ratio of tasks, and mini-batches large enough that
each of them holds every task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sapo_vl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pick:
    """One record of a mini-batch."""

    source: str  # a key of the mixture's sizes
    index: int  # the record's number in that source, from 0


class Mixture:
    """Draws mini-batches; see the module."""

    def __init__(
        self, sizes: Mapping[str, int], ratios: Mapping[str, float], size: int, seed: int = 0
    ) -> None:
        """Give each source its places in a mini-batch of `size` records.

        Args:
            sizes: source -> how many records it has.
            ratios: source -> its share, in any unit (3 and 1 are three quarters and one).
            size: records of one mini-batch, over all ranks.
            seed: of the order.

        Raises:
            ConfigError: the keys differ, a ratio is not positive, or a source gets no place.
        """
        if set(sizes) != set(ratios):
            raise ConfigError(f"ratios are for {sorted(ratios)}, the sources are {sorted(sizes)}")
        for name in sizes:
            if sizes[name] < 1 or not ratios[name] > 0:
                raise ConfigError(
                    f"{name}: {sizes[name]} records at ratio {ratios[name]}; both must be over 0"
                )
        self._sizes, self._seed = dict(sizes), seed
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        self.places = _places(ratios, size)  # source -> records of it in each mini-batch
        empty = [name for name, places in self.places.items() if places == 0]
        if empty:
            raise ConfigError(
                f"a mini-batch of {size} holds no record of {', '.join(empty)}: take a larger one"
            )

    def batch(self, number: int, rank: int = 0, ranks: int = 1) -> list[Pick]:
        """Return a rank's records of mini-batch `number` (from 0), each source's share kept.

        Ranks get equally many when `ranks` divides the size.
        """
        picks = [
            Pick(name, self._record(which, name, number * places + place))
            for which, (name, places) in enumerate(self.places.items())
            for place in range(places)
        ]
        own = picks[rank::ranks]
        order = np.random.default_rng([self._seed, number, rank]).permutation(len(own))
        return [own[i] for i in order]

    def _record(self, which: int, name: str, position: int) -> int:
        epoch, place = divmod(position, self._sizes[name])
        return int(self._order(which, name, epoch)[place])

    def _order(self, which: int, name: str, epoch: int) -> np.ndarray:
        """Return a source's order in an epoch; the last one is kept, for the next record."""
        known = self._orders.get(name)
        if known is None or known[0] != epoch:
            random = np.random.default_rng([self._seed, which, epoch])
            known = (epoch, random.permutation(self._sizes[name]))
            self._orders[name] = known
        return known[1]


def _places(ratios: Mapping[str, float], size: int) -> dict[str, int]:
    """Return whole places for each ratio, the largest remainders rounded up."""
    total = sum(ratios.values())
    exact = {name: size * ratio / total for name, ratio in ratios.items()}
    places = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: places[name] - exact[name])
    for name in by_remainder[: size - sum(places.values())]:
        places[name] += 1
    return places
