"""The trainer's fixtures: records on disk, and a trainer of fakes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_training import COUNT, Delivery, Generator, Learner, Renderer
from helpers import make_sample

from sapo_vl.config import load
from sapo_vl.data import store
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.usable_samples import UsableSamples
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.runs.folder import Run
from sapo_vl.training import trainer
from sapo_vl.training.prompt_sampler import PromptSampler
from sapo_vl.training.setup import RunInputs
from sapo_vl.training.trainer import Trainer


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> UsableSamples:
    path = tmp_path_factory.mktemp("records") / "data"
    store.write(path, [make_sample(name=f"r{i}") for i in range(COUNT)])
    return UsableSamples(store.load(path, "train"), range(COUNT))


@pytest.fixture
def build(records, tmp_path, monkeypatch):
    """Return a function that builds a trainer whose record i has right(i) right responses of 2."""
    runs: dict[str, Run] = {}

    def make(
        right, *overrides: str, name: str = "run", signal_at=0, records=records, remote=False
    ) -> Trainer:
        monkeypatch.setattr(trainer, "Learner", lambda config, assets: Learner())
        monkeypatch.setattr(trainer, "trainable_rows", lambda model: [])
        resume = (tmp_path / name).exists()
        config = load(
            None,
            [
                f"run.dir={tmp_path / name}",
                "rollout.prompts=8",
                "rollout.group_size=2",
                "rollout.max_new_tokens=16",
                "algorithm.num_mini_batches=4",
                "rewards=[{fn: boxed}]",
                "generator.parity_stop=1",  # the fake learner disagrees
                *overrides,
            ],
        )
        if resume:
            runs[name].close()  # as the end of the first process does
        run = runs[name] = Run(config, resume=resume)
        rubric = Rubric.from_terms([("boxed", 1.0)])
        sampler = PromptSampler(config, records)
        inputs = RunInputs(None, Renderer(), rubric, records, [], sampler, {})
        assets = SimpleNamespace(family=FAMILIES["qwen3_vl"], config=None)
        generator = Generator(right)
        generator.remote = remote
        made = Trainer(run, inputs, assets, None, generator)
        made.delivery = Delivery()
        made.learner = Learner(run.stop, signal_at)
        return made

    return make
