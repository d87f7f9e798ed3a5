"""Every objective through the learner: it learns, and no layout changes its gradient."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_rollouts, make_sample, make_samples, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.objectives import OBJECTIVES
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine
from sapo_vl.learner.engine import Learner
from sapo_vl.model.weights import load_weights
from sapo_vl.schema import Reward
from sapo_vl.training.rollouts import RolloutBatch, rollout_seed, sample_groups

pytestmark = pytest.mark.slow

STEPS, GROUP = 10, 8


class Digits:
    """A rubric that rewards the share of digits among a response's characters."""

    def grade(self, pairs, lengths):
        """Return a reward per pair."""
        shares = [sum(c.isdigit() for c in text) / max(len(text), 1) for _, text in pairs]
        return [Reward(share, share > 0.5, True) for share in shares]


@pytest.fixture
def engine_back(engine, assets):
    """Return the session's engine; it gets its first weights back."""
    yield engine
    module = load_weights(assets, "float32")
    engine.update_weights((name, value.detach()) for name, value in module.named_parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_learns_to_write_digits(name, engine_back, tiny_folder, assets, renderer):
    config = tiny_config(
        tiny_folder,
        f"objective={name}",
        f"rollout.group_size={GROUP}",
        "rollout.prompts=4",
        "algorithm.num_mini_batches=2",
        # 3e-4 is for thousands of tokens
        *(["gspo.low=0.2", "gspo.high=0.2"] if name == "gspo" else []),
    )
    prompts = renderer.render([make_sample([(32, 32)], seed=i, name=f"p{i}") for i in range(4)])
    learner, objective, rewards = Learner(config, assets), objectives.build(config), []
    sampling = SampleEngine(engine_back, renderer, Digits())
    params = SamplingParams(GROUP, config.rollout.temperature, config.rollout.max_new_tokens)
    for step in range(STEPS):
        engine_back.update_weights(learner.weights())
        seeds = [rollout_seed(0, step, prompt.sample.id) for prompt in prompts]
        groups = sample_groups(
            sampling, prompts, params, seeds, normalize=objective.normalize_advantages
        )
        rewards.append(np.mean([r.verdict.value for group in groups for r in group.rollouts]))
        mini_batches = RolloutBatch(groups, 2).mini_batches()
        learner.fill_old_logprobs(mini_batches[1])
        for rollouts in mini_batches:
            assert not learner.update(rollouts, objective, 3e-3).skipped
    learner.close()
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 0.2, rewards


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_layout_does_not_change_the_gradient(name, tiny_folder, assets, renderer):
    rendered = renderer.render(make_samples())
    figures = []
    for layout, budget in (("padded", 4096), ("shared_prefix", 4096), ("shared_prefix", 96)):
        config = tiny_config(
            tiny_folder,
            f"objective={name}",
            f"learner.layout={layout}",
            f"learner.micro_batch_tokens={budget}",
            # made-up ratios are far from 1
            *(["gspo.low=0.9", "gspo.high=9"] if name == "gspo" else []),
        )
        learner = Learner(config, assets)
        report = learner.update(make_rollouts(rendered), objectives.build(config), 1e-4)
        figures.append((report.loss, report.grad_norm))
        learner.close()
    assert figures[0][1] > 0
    for pair in figures[1:]:
        assert pair == pytest.approx(figures[0], rel=2e-5)
