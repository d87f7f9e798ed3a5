"""What telemetry costs: `python -m bench.telemetry_cost`.

Made-up mini-batches with the main job's shape (128 responses of about 14 tokens, four a step) and
with long responses, in milliseconds of one core, the median of several calls. Nothing but numpy is
timed: the arrays it reads come from the loss (learner/engine.py), with telemetry or without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench.measure import timed
from sapo_vl.algorithm import telemetry
from sapo_vl.learner.engine import StepReport
from sapo_vl.learner.rows import TrainRow
from sapo_vl.schema import Completion, Reward, RolloutGroup

SHAPES = {"main job": (128, 14), "long responses": (128, 4096)}
"""Responses of a mini-batch and their mean length in tokens."""

MINI_BATCHES = 4
GROUP = 8


class FakePrompt:
    """As much of a prompt as telemetry asks for."""

    images = (b"",)


def report(responses: int, length: int, seed: int = 0) -> StepReport:
    """Return a step on random tokens, a little off policy, lengths within a third of the mean."""
    random = np.random.default_rng(seed)
    found = StepReport()
    for _ in range(responses):
        size = int(random.integers(length - length // 3, length + length // 3 + 1))
        log_ratio = random.normal(0, 0.03, size).astype(np.float32)
        weight = telemetry.sech_squared(np.expm1(log_ratio) / 2).astype(np.float32)
        prompt: Any = FakePrompt
        found.rows.append(TrainRow(prompt, [0] * size, advantage=float(random.normal())))
        found.log_ratio.append(log_ratio)
        found.gate_weight.append(weight)
        found.coefficient.append(weight * np.exp(log_ratio))
        found.entropy.append(random.random(size, dtype=np.float32))
    return found


def groups(responses: int, length: int, seed: int = 0) -> list[RolloutGroup]:
    """Return graded groups of random tokens."""
    random = np.random.default_rng(seed)
    empty = np.zeros(0, dtype=np.float32)

    def one() -> RolloutGroup:
        drawn = [random.integers(0, 50_000, length).tolist() for _ in range(GROUP)]
        completions = [Completion(ids, empty, "stop", "") for ids in drawn]
        rewards = [Reward(1.0, i % 2 == 0, True) for i in range(GROUP)]
        return RolloutGroup(FakePrompt, completions, rewards, np.ones(GROUP, np.float32))

    return [one() for _ in range(responses // GROUP)]


def milliseconds(work: Callable[[], Any], repeats: int = 9) -> float:
    """Return the median CPU time of a call after a first one."""
    work()
    return 1e3 * median(timed(work).cpu for _ in range(repeats))


def main() -> None:
    """Print a line for each shape: a call, and all of a step of four mini-batches."""
    for name, (responses, length) in SHAPES.items():
        one = milliseconds(partial(telemetry.minibatch, report(responses, length), 1.0, 1.05))
        drawn = groups(MINI_BATCHES * responses, length)
        sums = milliseconds(partial(telemetry.group_sums, drawn, 2 * length))
        print(
            f"{name} ({responses} responses of {length} tokens): minibatch {one:.2f} ms, "
            f"group_sums of {MINI_BATCHES * responses} responses {sums:.2f} ms, "
            f"a step of {MINI_BATCHES} mini-batches {MINI_BATCHES * one + sums:.2f} ms"
        )


if __name__ == "__main__":
    main()
