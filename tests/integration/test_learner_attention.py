"""A learner's step in bfloat16 with the attention of a GPU, its kernels emulated on this CPU."""

from __future__ import annotations

import pytest
import torch
from flash_kernels import emulated
from helpers import distance, make_rollouts, make_samples, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.errors import ConfigError
from sapo_vl.learner import policy
from sapo_vl.learner.attention import SharedPrefix
from sapo_vl.learner.engine import Learner
from sapo_vl.learner.varlen import VarlenPlan

pytestmark = pytest.mark.slow


@pytest.fixture
def steps(assets, tiny_folder, renderer, monkeypatch):
    """Return a function: weights before and after a step in a type and a form of attention."""
    build = SharedPrefix.build

    def as_on_a_gpu(groups, device):
        layout = build(groups, device)
        layout.plan = VarlenPlan.build(groups, device)
        return layout

    monkeypatch.setattr(SharedPrefix, "build", staticmethod(as_on_a_gpu))
    prompts = renderer.render(make_samples())

    def step(dtype: str, form: str) -> tuple[dict, dict]:
        config = tiny_config(tiny_folder, f"model.dtype={dtype}", "learner.zero_stage=2")
        monkeypatch.setattr(policy, "choose_form", lambda *_: form)
        learner = Learner(config, assets)
        before = {name: value.float().clone() for name, value in learner.weights()}
        with emulated():
            learner.update(make_rollouts(prompts), objectives.build(config), 1e-2)
        after = {name: value.float().clone() for name, value in learner.weights()}
        learner.close()
        return before, after

    return step


def test_varlen_takes_the_step_that_dense_takes(steps):
    before, exact = steps("float32", "dense")
    _, varlen32 = steps("float32", "varlen")
    _, dense = steps("bfloat16", "dense")
    _, varlen = steps("bfloat16", "varlen")
    moved = distance(exact, before)
    assert distance(varlen32, exact) < 1e-3 * moved
    rounding = distance(dense, exact)
    assert rounding < 0.5 * moved
    assert distance(varlen, exact) < 1.2 * rounding
    assert any(not torch.equal(varlen[name], dense[name]) for name in dense)  # another path


def test_a_choice_that_needs_a_gpu_is_refused(assets, tiny_folder):
    with pytest.raises(ConfigError, match=r"learner\.attention=varlen needs a GPU"):
        Learner(tiny_config(tiny_folder, "learner.attention=varlen"), assets)
