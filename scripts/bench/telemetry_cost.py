"""Cost of telemetry: `PYTHONPATH=scripts python -m bench.telemetry_cost`.

Synthetic mini-batches in the main job's shape (128 responses of about 14 tokens, four per step) and
with long responses; milliseconds of one core, median of several calls. Only the numpy part is
timed: the loss computes the arrays it reads in any case (learner/engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench.measure import timed
from sapo_vl.algorithm import telemetry
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.schema import Reward, Rollout, RolloutGroup

SHAPES = {"main job": (128, 14), "long responses": (128, 4096)}
"""Responses of a mini-batch and their mean length in tokens."""

MINI_BATCHES = 4
GROUP = 8
TEMPERATURES = (1.0, 1.05)


class FakePrompt:
    """The part of a Prompt that telemetry reads."""

    images = (b"",)


FAKE_PROMPT: Any = FakePrompt()


def report(responses: int, length: int, seed: int = 0) -> UpdateReport:
    """Return an optimizer step on random tokens, a little off policy.

    Response lengths are within a third of `length`.
    """
    random = np.random.default_rng(seed)
    lengths = random.integers(length - length // 3, length + length // 3 + 1, responses)
    log_ratio = random.normal(0, 0.03, lengths.sum()).astype(np.float32)
    gate_weight = telemetry.sech_squared(np.expm1(log_ratio) / 2).astype(np.float32)
    return UpdateReport(
        rollouts=[
            Rollout(FAKE_PROMPT, [0] * size, advantage=float(random.normal()))
            for size in lengths.tolist()
        ],
        log_ratio_T=log_ratio,
        gate_weight_T=gate_weight,
        grad_coefficient_T=gate_weight * np.exp(log_ratio),
        entropy_T=random.random(len(log_ratio), dtype=np.float32),
        logprobs_T=-random.random(len(log_ratio), dtype=np.float32),
    )


def groups(responses: int, length: int, seed: int = 0) -> list[RolloutGroup]:
    """Return graded groups of random tokens."""
    random = np.random.default_rng(seed)

    def rollout(correct: bool) -> Rollout:
        token_ids = random.integers(0, 50_000, length).tolist()
        reward = Reward(float(correct), correct, valid=True)
        return Rollout(FAKE_PROMPT, token_ids, reward=reward, advantage=1.0 if correct else -1.0)

    return [
        RolloutGroup(FAKE_PROMPT, [rollout(i % 2 == 0) for i in range(GROUP)])
        for _ in range(responses // GROUP)
    ]


def milliseconds(work: Callable[[], Any], repeats: int = 9) -> float:
    """Return the median CPU time of a call, after one warm-up call."""
    work()
    return 1e3 * median(timed(work).cpu for _ in range(repeats))


def main() -> None:
    """Print per shape the time of each call, and of a step with four mini-batches."""
    for name, (responses, length) in SHAPES.items():
        update = report(responses, length)
        one = milliseconds(partial(telemetry.mini_batch_stats, update, TEMPERATURES))
        drawn = groups(MINI_BATCHES * responses, length)
        sums = milliseconds(partial(telemetry.group_sums, drawn, 2 * length))
        print(
            f"{name} ({responses} responses of {length} tokens): mini_batch_stats {one:.2f} ms, "
            f"group_sums of {MINI_BATCHES * responses} responses {sums:.2f} ms, "
            f"a step of {MINI_BATCHES} mini-batches {MINI_BATCHES * one + sums:.2f} ms"
        )


if __name__ == "__main__":
    main()
