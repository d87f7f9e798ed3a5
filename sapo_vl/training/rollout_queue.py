"""Rollout batches sampled ahead of the learner, with a lag that the configuration fixes.

With rollout.ahead = K the batch of step t (counted from 0) is sampled by the weights after
max(0, t - K) steps, wholly. The order of a step is: start sampling the batch of K steps later, take
this step's, train, wait for the sampler, send it the new weights. Nothing goes by order of arrival,
so that configuration and seed determine a run, whatever the speed of its parts.

A generator on devices of its own (`remote`) samples in a thread: while the learner trains, and
while the step before is recorded and a checkpoint written. One that shares the learner's devices
samples before it trains, which gives the same rollouts. Batches that wait are part of a checkpoint
where the weights that sample them are gone; those of the checkpoint's own weights are sampled anew
by a run that resumes.

With rollout.in_flight new weights don't wait for the sampler, so that a response may be begun by
one version and ended by another. How far it had got is a matter of time: such a run can't be
reproduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from sapo_vl.config import Config
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.system import distributed
from sapo_vl.training.prompt_sampler import DrawStart
from sapo_vl.training.rollouts import RolloutBatch
from sapo_vl.training.step_sampler import Guard, SampledStep, StepSampler


class RolloutQueue:
    """This rank's batches that are sampled, or being sampled, and not yet trained on."""

    def __init__(self, config: Config, sampler: StepSampler, *, remote: bool, guard: Guard) -> None:
        """`guard` makes the context in which a signal may end a wait or a call of the generator.

        Collective where a thread will sample: it gets a process group of its own.
        """
        self._options, self._sampler, self._guard = config.rollout, sampler, guard
        self._batches: dict[int, Future[SampledStep]] = {}
        self._versions: dict[int, int] = {}  # step -> of the weights that sample it, where known
        self._pool: ThreadPoolExecutor | None = None
        if remote and config.rollout.ahead:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="sampler")
            self._group = distributed.side_group()

    @property
    def overlaps(self) -> bool:
        """Whether sampling goes on while the learner trains."""
        return self._pool is not None

    def start(self, step: int, cursor: int, version: int) -> None:
        """Start sampling the batches of `step` and up to rollout.ahead steps later.

        Those already started are left alone. `cursor` counts the records drawn before `step`,
        `version` is that of the generator's weights.
        """
        last = min(step + self._options.ahead, self._options.steps - 1)
        for later in range(step, last + 1):
            if later not in self._batches:
                self._start(later, cursor + (later - step) * self._options.prompts, version)

    def take(self, step: int, cursor: int, version: int) -> SampledStep:
        """Return the batch of `step`; see `start` for the rest. Raises whatever sampling raised."""
        self.start(step, cursor, version)
        with self._guard():
            return self._batches[step].result()

    def release(self, step: int) -> None:
        """Forget the batch of a step that is over."""
        self._batches.pop(step, None)
        self._versions.pop(step, None)

    def wait(self) -> None:
        """Wait until nothing is being sampled. Raises whatever sampling raised."""
        for batch in self._batches.values():
            batch.result()

    def wait_before_sync(self) -> None:
        """Wait until the generator may get new weights: with rollout.in_flight, at any time."""
        if not self._options.in_flight:
            self.wait()

    def state_dict(self, first: int, version: int | None) -> list[dict[str, Any]]:
        """Return the batches of the steps from `first` on, once they are sampled.

        Those of the weights `version` are left out: the checkpoint holds these weights, if any.
        """
        kept = {
            step: batch.result()
            for step, batch in self._batches.items()
            if step >= first and (version is None or self._versions.get(step) != version)
        }
        return [
            {
                "step": step,
                "batch": sampled.batch.state_dict(),
                "totals": sampled.totals,
                "seconds": sampled.seconds,
            }
            for step, sampled in sorted(kept.items())
        ]

    def load_state_dict(self, state: Sequence[dict[str, Any]], renderer: PromptRenderer) -> None:
        """Restore batches that a checkpoint holds, rendering their prompts again."""
        for saved in state:
            batch = RolloutBatch.from_state_dict(saved["batch"], renderer)
            self._batches[saved["step"]] = _done(
                SampledStep(batch, saved["totals"], saved["seconds"])
            )

    def close(self) -> None:
        """Stop sampling; a batch in progress is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, step: int, cursor: int, version: int) -> None:
        self._versions[step] = version
        start = self._sampler.pools.begin(step, cursor)  # here: a thread would see later results
        if self._pool is None:
            sampled = self._sampler.sample(step, cursor, version, self._guard, start)
            self._batches[step] = _done(sampled)
        else:
            self._batches[step] = self._pool.submit(self._in_thread, step, cursor, version, start)

    def _in_thread(
        self, step: int, cursor: int, version: int, start: DrawStart | None
    ) -> SampledStep:
        """Sample a step; signals are the main thread's."""
        with distributed.using(self._group):
            return self._sampler.sample(step, cursor, version, nullcontext, start)


def _done(sampled: SampledStep) -> Future[SampledStep]:
    future: Future[SampledStep] = Future()
    future.set_result(sampled)
    return future
