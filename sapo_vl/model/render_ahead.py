"""Prompts of the next step, read and rendered by threads while this step is learned from.

Decoding, scaling and processing pictures release Python's lock for most of their time. A large
picture (1,000 visual tokens) takes 0.2 to 0.3 s on one core, in which the accelerator would wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from sapo_vl.model.prompts import PromptRenderer, Rendered
from sapo_vl.schema import Sample
from sapo_vl.system import distributed

MOST_THREADS = 8
"""More would compete with the learner's own; a step's pictures are ready long before it ends."""

LEAST_SAMPLES = 4
"""Samples of a thread's part: below, the fixed cost of a call of the image processor counts."""


class Part(NamedTuple):
    """What one thread has rendered."""

    rendered: Rendered
    seconds: float  # that it took


@dataclass(frozen=True, slots=True)
class Pending:
    """Samples that are being rendered, in parts."""

    indices: list[int]
    parts: list[Future[Part]]


class RenderAhead:
    """Renders samples of a data set, in the background where it was told in time.

    `hidden` and `waited` are seconds since `laps` was last called: of rendering by the threads, and
    of waiting for it.
    """

    def __init__(
        self, renderer: PromptRenderer, samples: Sequence[Sample], threads: int | None = None
    ) -> None:
        """`threads` is by default this rank's share of the cores, at most MOST_THREADS."""
        self._renderer, self._samples = renderer, samples
        self._threads = threads or min(MOST_THREADS, distributed.cores_per_rank())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="render")
        self._pending: Pending | None = None
        self.hidden, self.waited = 0.0, 0.0

    def start(self, indices: Sequence[int]) -> None:
        """Start rendering the samples at `indices`; what was pending is dropped."""
        size = max(LEAST_SAMPLES, -(-len(indices) // self._threads))
        parts = [indices[i : i + size] for i in range(0, len(indices), size)]
        self._pending = Pending(list(indices), [self._pool.submit(self._render, p) for p in parts])

    def take(self, indices: Sequence[int]) -> Rendered:
        """Return the prompts of the samples at `indices`, and the faults of others.

        They are rendered now unless `start` was last called with the same indices. Raises DataError
        for a sample that can't be read.
        """
        pending, self._pending = self._pending, None
        begun = time.perf_counter()
        if pending is None or pending.indices != list(indices):
            rendered = self._render(indices).rendered
        else:
            parts = [future.result() for future in pending.parts]
            self.hidden += sum(part.seconds for part in parts)
            rendered = _joined([part.rendered for part in parts])
        self.waited += time.perf_counter() - begun
        return rendered

    def laps(self) -> dict[str, float]:
        """Return and reset the seconds: `render` in the background, `render_wait` of waiting."""
        seconds = {"render": self.hidden, "render_wait": self.waited}
        self.hidden, self.waited = 0.0, 0.0
        return seconds

    def _render(self, indices: Sequence[int]) -> Part:
        begun = time.perf_counter()
        rendered = self._renderer.render_usable([self._samples[i] for i in indices])
        return Part(rendered, time.perf_counter() - begun)


def _joined(parts: Sequence[Rendered]) -> Rendered:
    """Return the parts as one; a part's faults are numbered from its own first sample."""
    joined = Rendered([], {})
    for prompts, faults in parts:
        first = len(joined.prompts) + len(joined.faults)
        joined.prompts.extend(prompts)
        joined.faults.update({first + i: fault for i, fault in faults.items()})
    return joined
