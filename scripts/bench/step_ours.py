"""Our side of the comparison of whole steps: `train_step` of train.py, with a clock at each phase.

The clock stops before the trainer records the step's metrics, which TRL's does not count either.
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
from sapo_vl.training.prompt_sampler import Draw
from sapo_vl.training.setup import RunInputs
from sapo_vl.training.trainer import Trainer


class SequentialSampler:
    """Takes the problems in their order, each once, as TRL does without shuffling."""

    def __init__(self, prompts: int) -> None:
        """`prompts` is the number of problems a step, over all ranks."""
        self._prompts = prompts

    def step(self, step: int, cursor: int, rank: int, ranks: int) -> list[Draw]:
        """Return a rank's problems of a training step; see PromptSampler."""
        indices = range(cursor, cursor + self._prompts)
        return [Draw(index, "", None) for index in indices[rank::ranks]]


def main(options: dict[str, Any]) -> None:
    """Take the steps, one at the parent's word."""
    distributed.init()
    run = Run(pace.configuration(options), resume=False)
    trainer = build_trainer(run, options)
    book = pace.Book()
    clock_phases(trainer, book)
    trainer.generator.update_weights(trainer.learner.weights())
    pace.say({})
    for _ in range(options["steps"]):
        pace.wait()
        with trainer.step() as step:
            book.start()
            train_step(trainer, step)
            figures: dict[str, Any] = book.figures()
        assert step.batch is not None, "a step without rollouts"
        lengths = [len(r.token_ids) for group in step.batch.groups for r in group.rollouts]
        figures |= {"tokens": sum(lengths), "mean_length": sum(lengths) / len(lengths)}
        pace.say(figures | {"updates": step.batch.num_mini_batches})
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
        train_set=pace.samples(options, Path(options["place"]) / "data-ours"),  # type: ignore[arg-type]
        test_set=[],
        prompt_sampler=SequentialSampler(options["prompts"]),  # type: ignore[arg-type]
        benchmarks={},
    )
    return Trainer(run, inputs, assets, writer=None)


def clock_phases(trainer: Trainer, book: pace.Book) -> None:
    """Book the phases of the trainer's steps, and replace rewards by a coin's."""
    parts: Any = trainer  # methods are replaced on the objects
    grade = trainer.inputs.rubric.grade

    def graded(pairs: Sequence[tuple[Sample, str]], *rest: Any, **named: Any) -> list[Reward]:
        rewards = grade(pairs, *rest, **named)
        return [
            replace(reward, value=pace.coin(text), valid=True)
            for reward, (_, text) in zip(rewards, pairs, strict=True)
        ]

    parts.inputs.rubric.grade = book.phase("verify", graded)
    parts.inputs.renderer.render = book.phase("prepare", trainer.inputs.renderer.render)
    parts.generator.generate = book.phase("generate", trainer.generator.generate)
    parts.generator.update_weights = book.phase("sync", trainer.generator.update_weights)
    parts.learner.fill_old_logprobs = book.phase("old_logprobs", trainer.learner.fill_old_logprobs)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
