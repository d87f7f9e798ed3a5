"""Sampling of a training step's groups: draws, prompts, responses, rewards and advantages."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sapo_vl.algorithm import telemetry
from sapo_vl.algorithm.objectives import Objective
from sapo_vl.algorithm.reward_terms import term_sums
from sapo_vl.errors import DataError, printable
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine
from sapo_vl.model.render_ahead import RenderAhead
from sapo_vl.runs.folder import Run
from sapo_vl.schema import Prompt, RolloutGroup
from sapo_vl.system import distributed
from sapo_vl.training.pools import DifficultyPools, pass_counts
from sapo_vl.training.prompt_sampler import Draw, DrawStart
from sapo_vl.training.rollouts import (
    RolloutBatch,
    replace_groups,
    rollout_seed,
    sample_groups,
    set_versions,
)
from sapo_vl.training.setup import RunInputs

Guard = Callable[[], AbstractContextManager[None]]

REPLACEMENTS = 1000
"""First round number of records that replace unusable ones: no dynamic sampling gets there."""


@dataclass(slots=True)
class SampledStep:
    """This rank's rollouts of a training step."""

    batch: RolloutBatch
    totals: dict[str, float]  # telemetry.group_sums and reward_terms.term_sums
    seconds: float  # that sampling and grading took


class StepSampler:
    """Samples whole training steps; what it samples depends on its arguments and weights alone."""

    def __init__(
        self,
        run: Run,
        inputs: RunInputs,
        engine: SampleEngine,
        objective: Objective,
        warn: Callable[[int, str], None],
    ) -> None:
        """`warn` is given a step and a line about a record that is left out of it."""
        self._run, self._config, self._inputs = run, run.config, inputs
        self._engine, self._objective, self._warn = engine, objective, warn
        self.pools = DifficultyPools(run.config, inputs.prompt_sampler)
        self._unusable = set[str]()  # ids of records that have been printed as left out
        self.prompts = RenderAhead(inputs.renderer, inputs.train_set)

    def sample(
        self,
        step: int,
        cursor: int,
        version: int,
        guard: Guard,
        start: DrawStart | None = None,
    ) -> SampledStep:
        """Sample and grade this rank's groups of `step`, counted from 0.

        `cursor` counts the records drawn before it, `version` the training steps that the
        generator's weights have seen. Each call of the generator is inside a context of `guard`.
        `start` is `pools.begin` of the step.

        The totals are those of the first sampling only, so that accuracy and reward describe the
        data. Dynamic sampling resamples groups without a gradient, for max_resample_rounds at most.
        """
        begun = time.perf_counter()
        config = self._config
        rank, ranks = distributed.rank(), distributed.world_size()
        sampler = self._inputs.prompt_sampler
        resting = start.resting if start else {}
        taken = sampler.step(step, cursor, rank, ranks, start)
        draws, groups = self._sample(step, taken, guard, resting, round_=0)
        counts = pass_counts(draws, groups) if start else []
        totals = telemetry.group_sums(groups, config.rollout.max_new_tokens) | term_sums(groups)
        rounds = self._objective.max_resample_rounds
        if rounds:
            totals |= {"resample_drawn": 0.0, "resample_kept": 0.0}
        for round_ in range(1, rounds + 1):
            dropped = [i for i, group in enumerate(groups) if not group.has_gradient]
            redraws = sampler.resample(
                (step, round_), rank, ranks, taken, [draws[i] for i in dropped], resting
            )
            if distributed.all_reduce_max(len(redraws)) == 0:
                break
            taken += redraws
            redrawn, sampled = self._sample(step, redraws, guard, resting, round_=round_)
            counts += pass_counts(redrawn, sampled) if start else []
            resampled = [group for group in sampled if group.has_gradient]
            replace_groups(groups, dropped, resampled)
            totals["resample_drawn"] += len(redraws)
            totals["resample_kept"] += len(resampled)
        self._render_step(step, cursor, start)
        set_versions(groups, version)
        batch = RolloutBatch(groups, config.algorithm.num_mini_batches, counts)
        return SampledStep(batch, totals, time.perf_counter() - begun)

    def _sample(
        self,
        step: int,
        draws: list[Draw],
        guard: Guard,
        resting: Container[int],
        *,
        round_: int,
    ) -> tuple[list[Draw], list[RolloutGroup]]:
        """Sample and grade a group per draw; return them with the draws that they are of.

        A record that can't be rendered is replaced in the first round, and left out in later ones.
        """
        self._run.heartbeat([self._inputs.train_set.id_at(draw.index) for draw in draws])
        kept, prompts = self._render(step, draws, resting, replace=round_ == 0)
        options, seed = self._config.rollout, self._config.run.seed
        with guard():
            groups = sample_groups(
                self._engine,
                prompts,
                SamplingParams(options.group_size, options.temperature, options.max_new_tokens),
                [
                    rollout_seed(seed, step, prompt.sample.id, draw.copy)
                    for draw, prompt in zip(kept, prompts, strict=True)
                ],
                normalize=self._objective.normalize_advantages,
            )
        for draw, group in zip(kept, groups, strict=True):
            group.mini_batch = draw.mini_batch
        return kept, groups

    def _render(
        self, step: int, draws: list[Draw], resting: Container[int], *, replace: bool
    ) -> tuple[list[Draw], list[Prompt]]:
        """Render the records that can be, and replace the others by records of the same task.

        `draws` gets the replacements too. Raises DataError when nothing is left of them.
        """
        sampler, ranks = self._inputs.prompt_sampler, distributed.world_size()
        kept: list[Draw] = []
        prompts: list[Prompt] = []
        pending, attempt = list(draws), 0
        while pending:
            faulty = []
            rendered = self.prompts.take([draw.index for draw in pending])
            for i, draw in enumerate(pending):
                if i in rendered.faults:
                    self._leave_out(step, draw, rendered.faults[i])
                    faulty.append(draw)
                else:
                    kept.append(draw)
            prompts += rendered.prompts
            pending, attempt = [], attempt + 1
            if faulty and replace:
                place = (step, REPLACEMENTS + attempt)
                pending = sampler.resample(place, distributed.rank(), ranks, draws, faulty, resting)
                draws += pending
        if replace and not kept:
            raise DataError(
                f"step {step + 1}: none of its {len(draws)} records can be a prompt; "
                "the reasons are above"
            )
        return kept, prompts

    def _render_step(self, step: int, cursor: int, start: DrawStart | None) -> None:
        """Start rendering the prompts of the step after `step`, in the background.

        With pools they are a guess: what `step` itself sends to rest is not known yet.
        """
        sampler = self._inputs.prompt_sampler
        if step + 1 < self._config.rollout.steps:
            following = start and DrawStart(sampler.end(step, start), start.resting)
            cursor += self._config.rollout.prompts
            rank, ranks = distributed.rank(), distributed.world_size()
            draws = sampler.step(step + 1, cursor, rank, ranks, following)
            self.prompts.start([draw.index for draw in draws])

    def _leave_out(self, step: int, draw: Draw, fault: DataError) -> None:
        """Say, once per record and rank, that a drawn record is left out."""
        name = self._inputs.train_set.id_at(draw.index)
        if name not in self._unusable:
            self._unusable.add(name)
            self._warn(step + 1, f"step {step + 1}: left out and replaced: {printable(fault)}")
