"""A renderer, a generator and a learner without weights, for tests of the trainer."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import torch
from helpers import bare_prompt

from sapo_vl import train
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.errors import DataError
from sapo_vl.model.prompts import Rendered
from sapo_vl.schema import Rollout
from sapo_vl.training.receipt import Receipt
from sapo_vl.training.rollouts import RolloutBatch
from sapo_vl.training.trainer import Trainer

COUNT = 64


class Renderer:
    """Prompts of three tokens, whatever the sample."""

    def __init__(self) -> None:
        self.broken: set[str] = set()  # ids of records that can't be rendered

    def render(self, samples) -> list:
        """Return a prompt per sample."""
        return [bare_prompt(name=sample.id) for sample in samples]

    def render_usable(self, samples) -> Rendered:
        """Return a prompt per sample that is not broken."""
        faults = {
            i: DataError(f"record {sample.id}: cut off")
            for i, sample in enumerate(samples)
            if sample.id in self.broken
        }
        return Rendered(self.render([s for s in samples if s.id not in self.broken]), faults)


class Generator:
    """Answers as often right as `right(record number)` says, and keeps what it was asked."""

    def __init__(self, right) -> None:
        self.right, self.calls, self.seeds = right, [], []
        self.version, self.versions = 0, []  # of its weights; that of each call
        self.remote = False

    def generate(self, requests) -> list[list[Rollout]]:
        """Return each request's rollouts, the right ones first."""
        numbers = [int(request.prompt.sample.id[1:]) for request in requests]
        self.calls.append(numbers)
        self.seeds.append([request.seed for request in requests])
        self.versions.append(self.version)
        return [
            [self._one(r.prompt, i < self.right(number)) for i in range(r.params.n)]
            for r, number in zip(requests, numbers, strict=True)
        ]

    def _one(self, prompt, right: bool) -> Rollout:
        text = "\\boxed{7}" if right else "\\boxed{8}"
        logprobs = np.array([-1.0, -2.0], np.float32)
        return Rollout(prompt, [1, 2], text, generator_logprobs=logprobs)

    def update_weights(self, weights, version=0) -> None:
        """Take nothing but the version."""
        self.version = version

    def sleep(self) -> None:
        """Hold nothing."""


class Learner:
    """Counts its updates; `signal_at` sends a stop signal inside of that update."""

    model = torch.nn.Linear(1, 1)
    weights_away = False
    digest = "start"

    def __init__(self, stop=None, signal_at: int = 0) -> None:
        self.updates: list[list[tuple[str, float, list[float]]]] = []
        self._stop, self._signal_at = stop, signal_at
        self.reference_passes = 0

    def fill_old_logprobs(self, rollouts) -> None:
        """Disagree with the sampler by 0.001 per update so far."""
        for rollout in rollouts:
            rollout.old_logprobs = rollout.generator_logprobs + 0.001 * (1 + len(self.updates))

    def export(self, out: Path) -> None:
        """Write a folder without weights."""
        out.mkdir(parents=True)

    def keep_reference(self) -> str:
        """Return the digest of what it starts from."""
        return self.digest

    def fill_reference_logprobs(self, mini_batches) -> None:
        """Be half a nat above the sampler."""
        self.reference_passes += 1
        for rollout in (rollout for mini_batch in mini_batches for rollout in mini_batch):
            rollout.reference_logprobs = rollout.generator_logprobs + 0.5

    def update(self, rollouts, objective, lr) -> UpdateReport:
        """Keep what was trained on."""
        for rollout in rollouts:
            if rollout.old_logprobs is None:
                rollout.old_logprobs = rollout.generator_logprobs
        self.updates.append(
            [
                (r.prompt.sample.id, r.advantage, r.old_logprobs.tolist())
                for r in rollouts
                if not r.is_filler
            ]
        )
        if len(self.updates) == self._signal_at:
            self._stop._handle(signal.SIGTERM, None)
        trained = [r for r in rollouts if not r.is_filler]
        tokens = sum(len(r.token_ids) for r in trained)
        ones = np.ones(tokens, np.float32)
        return UpdateReport(
            trained,
            loss=float(len(self.updates)),
            grad_norm=1.0,
            log_ratio_T=0 * ones,
            gate_weight_T=ones,
            grad_coefficient_T=ones,
            entropy_T=np.arange(tokens, dtype=np.float32) / 1024 + 128 + len(self.updates),
            logprobs_T=-ones,
        )

    def sleep(self) -> None:
        """Hold nothing."""

    def weights(self):
        """Return nothing to sync."""
        return iter(())

    def save(self, directory: Path) -> None:
        """Write the updates so far."""
        (directory / "updates.json").write_text(json.dumps(self.updates))

    def load(self, directory: Path) -> None:
        """Read them again."""
        saved = json.loads((directory / "updates.json").read_text())
        self.updates = [[tuple(entry) for entry in update] for update in saved]


class Delivery:
    """Takes every transfer for arrived: a generator without weights has no proof of them."""

    pending = False

    def ask(self, generator, learner, version) -> Receipt:
        """Return a receipt without a difference."""
        return Receipt(version, 0.0, 0.0)


def sampled(made: Trainer) -> tuple[RolloutBatch, dict[str, float]]:
    """Sample the groups of the trainer's step; return them and their sums."""
    state = made.state
    step = made.sampler.sample(state.step, state.cursor, 0, made.run.stop.interruptible)
    return step.batch, step.totals


def steps(made: Trainer, count: int) -> None:
    """Take training steps as train_loop does, without the evaluation of a run's start."""
    while made.state.step < count:
        with made.step() as step:
            train.train_step(made, step)
