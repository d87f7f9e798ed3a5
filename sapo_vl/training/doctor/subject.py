"""The set-up that is examined: a config, and what the checks open of it on first use.

Nothing is written into the user's run.dir. The tiny model is built in a temporary folder; of
procedural problems a few are drawn in memory.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sapo_vl.config import Config, tiny_family
from sapo_vl.data import store, synthetic
from sapo_vl.errors import UserError
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric, build_rubric
from sapo_vl.schema import Prompt, Sample
from sapo_vl.system import machine
from sapo_vl.training.doctor.survey import Survey, survey
from sapo_vl.training.plan import hardware
from sapo_vl.training.plan.fit import Plan, make_plan
from sapo_vl.training.plan.hardware import Hardware
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.shape import ModelShape, model_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sapo_vl.generator.base import Generator
    from sapo_vl.learner.engine import Learner

DRAWN = {"train": 96, "test": 24}
"""Procedural problems that stand for a run's own."""

TOKENIZER_TEXTS = 600
"""Procedural texts that the tiny model's tokenizer is trained on: a run takes more of them."""

EACH_KIND = 2
"""Prompts without pictures, and as many with, that the model is tried on."""


class Subject:
    """A config under examination."""

    def __init__(
        self,
        config: Config,
        scratch: Path,
        *,
        config_file: Path | None = None,
        generator: Generator | None = None,
    ) -> None:
        """`scratch` is a temporary folder; a running `generator` is used and not closed.

        The warm-up is left out: SAPO's phase is tried with the model that the run starts from.
        """
        sft = config.sft.model_copy(update={"steps": 0})
        self.config = config
        self.trained = config.model_copy(update={"sft": sft})
        self.scratch = scratch
        self.config_file = config_file
        self._given = generator
        self.generator = generator
        self.learner: Learner | None = None
        self._opened: list[Rubric] = []

    def close(self) -> None:
        """Release what was opened."""
        for rubric in self._opened:
            rubric.close()
        if self.generator is not None and self.generator is not self._given:
            self.generator.close()
        if self.learner is not None:
            self.learner.close()

    @property
    def run_dir(self) -> Path:
        """The user's run.dir."""
        return self.config.run.dir

    @cached_property
    def assets(self) -> ModelAssets:
        """The model's folder. Raises DataError."""
        family = tiny_family(self.config.model.path)
        if family is None:
            return open_assets(self.config.model.path)
        from sapo_vl.model import tiny

        seed, folder = self.config.run.seed, self.scratch / "model"
        if not folder.exists():
            corpus = synthetic.corpus(seed, TOKENIZER_TEXTS)
            tiny.build(folder, corpus=corpus, seed=seed, family=family)
        return open_assets(folder)

    @cached_property
    def renderer(self) -> PromptRenderer:
        """The renderer of prompts. Raises DataError for a wrong chat template."""
        return PromptRenderer(self.assets, self.config.data)

    @cached_property
    def rubric(self) -> Rubric:
        """The reward's terms. Raises ConfigError."""
        rubric = build_rubric(self.config)
        self._opened.append(rubric)
        return rubric

    @cached_property
    def splits(self) -> dict[str, Sequence[Sample]]:
        """The records of both splits, read when they are indexed. Raises DataError."""
        data = self.config.data
        if data.path is None:
            seed = self.config.run.seed
            return {
                split: list(
                    synthetic.rows(seed=seed, split=split, count=count, teacher="weak", level=1)
                )
                for split, count in DRAWN.items()
            }
        return {
            split: store.load(data.path, split)
            for split in dict.fromkeys((data.train_split, data.eval_split))
        }

    @cached_property
    def survey(self) -> Survey:
        """What a pass over the records has seen; without a template nothing about prompts.

        Raises DataError as `splits`.
        """
        try:
            renderer = self.renderer
        except UserError:  # the check of the template reports it
            renderer = None
        return survey(self.config, self.splits, renderer)

    @property
    def usable(self) -> list[Sample]:
        """Training records that can be prompts, some of them."""
        return self.survey.usable

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Up to EACH_KIND prompts without pictures and with, of the usable training records.

        Raises DataError where one can't be rendered.
        """
        chosen = [
            [sample for sample in self.usable if bool(sample.images) == kind][:EACH_KIND]
            for kind in (False, True)
        ]
        return self.renderer.render([sample for samples in chosen for sample in samples])

    @property
    def ranks(self) -> int:
        """The run's processes on this machine: SAPO_RANKS, else one per GPU, else one."""
        return int(os.environ.get("SAPO_RANKS") or max(1, machine.gpu_count()))

    @cached_property
    def shape(self) -> ModelShape:
        """Widths and counts of the model. Raises DataError, ConfigError."""
        return model_shape(module_on_meta(self.config)[0])

    def plan(self, ranks: int) -> Plan:
        """Return the plan of the run on so many of this machine's devices. Raises as `shape`."""
        return make_plan(self.config, self.shape, this_machine(ranks))


def this_machine(ranks: int) -> Hardware:
    """Return so many devices of this machine."""
    size = hardware.visible_size() if machine.gpu_count() else None
    return hardware.cpu(ranks) if size is None else hardware.gpus(size, ranks)
