"""Our side of the whole-step benchmark: `train_step` of train.py with a clock around each phase.

The clock stops before the trainer logs the step's metrics, which is not timed for TRL either.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import pace
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.runs.folder import Run
from sapo_vl.schema import Reward, Sample
from sapo_vl.system import distributed
from sapo_vl.train import train_step
from sapo_vl.training.prompt_sampler import Draw, DrawStart
from sapo_vl.training.setup import RunInputs
from sapo_vl.training.trainer import Trainer


class SequentialSampler:
    """Draws the problems in order, each once, as TRL does without shuffling."""

    def __init__(self, prompts: int) -> None:
        """`prompts` is the number of problems per step over all ranks."""
        self._prompts = prompts

    def step(
        self, step: int, cursor: int, rank: int, ranks: int, start: DrawStart | None = None
    ) -> list[Draw]:
        """Return a rank's problems of a training step; see PromptSampler."""
        indices = range(cursor, cursor + self._prompts)
        return [Draw(index, "", None) for index in indices[rank::ranks]]


def main(options: dict[str, Any]) -> None:
    """Take the steps, each when the parent signals it."""
    distributed.init()
    run = Run(pace.configuration(options), resume=False)
    trainer = build_trainer(run, options)
    clock = pace.PhaseClock()
    clock_phases(trainer, clock)
    trainer.generator.update_weights(trainer.learner.weights())
    pace.report_to_parent({})
    for _ in range(options["steps"]):
        pace.wait_for_parent()
        with trainer.step() as step:
            clock.start()
            train_step(trainer, step)
            measured: dict[str, Any] = clock.seconds()
        assert step.batch is not None, "a step without rollouts"
        lengths = [len(r.token_ids) for group in step.batch.groups for r in group.rollouts]
        measured |= {"tokens": sum(lengths), "mean_length": sum(lengths) / len(lengths)}
        pace.report_to_parent(measured | {"updates": step.batch.num_mini_batches})
    trainer.inputs.rubric.close()
    trainer.generator.close()


def build_trainer(run: Run, options: dict[str, Any]) -> Trainer:
    """Return the main job's trainer, without warm-up or evaluation."""
    config = run.config
    assets = open_assets(options["model"])
    inputs = RunInputs(
        assets=assets,
        renderer=PromptRenderer(assets, config.data),
        rubric=build_rubric(config),
        train_set=pace.samples(options, Path(options["work_dir"]) / "data-ours"),
        test_set=[],
        prompt_sampler=SequentialSampler(options["prompts"]),  # type: ignore[arg-type]
        benchmarks={},
    )
    return Trainer(run, inputs, assets, writer=None)


def clock_phases(trainer: Trainer, clock: pace.PhaseClock) -> None:
    """Time the phases of the trainer's steps, and replace rewards by `pace.coin`."""
    parts: Any = trainer  # Any: methods are replaced on the instances
    grade = trainer.inputs.rubric.grade

    def graded(pairs: Sequence[tuple[Sample, str]], *rest: Any, **named: Any) -> list[Reward]:
        rewards = grade(pairs, *rest, **named)
        return [
            replace(reward, value=pace.coin(text), valid=True)
            for reward, (_, text) in zip(rewards, pairs, strict=True)
        ]

    parts.inputs.rubric.grade = clock.phase("verify", graded)
    parts.sampler.prompts.take = clock.phase("prepare", trainer.sampler.prompts.take)
    parts.generator.generate = clock.phase("generate", trainer.generator.generate)
    parts.generator.update_weights = clock.phase("sync", trainer.generator.update_weights)
    parts.learner.fill_old_logprobs = clock.phase("old_logprobs", trainer.learner.fill_old_logprobs)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
