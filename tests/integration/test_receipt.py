"""Planted faults of a weight transfer, with real vLLM and a real learner: each refused at once."""

from __future__ import annotations

import pytest
from helpers import make_rollouts, make_sample, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.learner.engine import Learner
from sapo_vl.training.receipt import DeliveryCheck, DeliveryError

pytestmark = pytest.mark.slow

LONG = "How many circles are there in the drawing, and what is their sum? " * 4
"""Longer than a block of the prefix cache."""


@pytest.fixture(scope="module")
def prompts(renderer):
    return renderer.render(
        [make_sample(text=LONG, name="words"), make_sample([(64, 64)], text=LONG, name="drawing")]
    )


@pytest.fixture
def learner(assets, tiny_folder, engine):
    built = Learner(tiny_config(tiny_folder), assets)
    original = {name: tensor.clone() for name, tensor in built.weights()}
    yield built
    built.close()
    engine.update_weights(iter(original.items()))


@pytest.fixture
def delivered(learner, engine, prompts, tiny_folder):
    """(check, weights before the update that is to be delivered), a first receipt taken."""
    config = tiny_config(tiny_folder)
    engine.update_weights(learner.weights())
    check = DeliveryCheck(config, prompts)
    receipt = check.ask(engine, learner, 0)
    assert receipt.max_abs <= 1e-4
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    rollouts = make_rollouts(prompts)
    for rollout in rollouts:
        rollout.old_logprobs = None
    learner.update(rollouts, objectives.build(config), 1e-3)
    return check, before


def test_an_update_that_arrived(delivered, engine, learner):
    check, _ = delivered
    engine.update_weights(learner.weights())
    assert check.ask(engine, learner, 1).max_abs <= 1e-4


def test_an_update_that_was_not_sent(delivered, engine, learner):
    check, _ = delivered
    with pytest.raises(DeliveryError, match="step 1: the sampler doesn't have the learner's"):
        check.ask(engine, learner, 1)


def test_a_layer_that_was_left_out(delivered, engine, learner):
    check, before = delivered
    engine.update_weights(
        (name, before[name] if ".layers.1.mlp." in name else tensor)
        for name, tensor in learner.weights()
    )
    with pytest.raises(DeliveryError):
        check.ask(engine, learner, 1)


def test_an_update_that_was_applied_twice(delivered, engine, learner):
    check, before = delivered
    engine.update_weights((name, 2 * tensor - before[name]) for name, tensor in learner.weights())
    with pytest.raises(DeliveryError):
        check.ask(engine, learner, 1)


def test_a_prefix_cache_of_old_weights(delivered, engine, learner, monkeypatch):
    check, _ = delivered
    with monkeypatch.context() as patch:
        patch.setattr(engine, "reset_caches", lambda: engine._llm.llm_engine.reset_encoder_cache())
        engine.update_weights(learner.weights())
    with pytest.raises(DeliveryError, match="words"):
        check.ask(engine, learner, 1)
