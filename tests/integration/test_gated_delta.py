"""Qwen3.5's policy in the form that a GPU takes, its kernels emulated on this CPU."""

from __future__ import annotations

import pytest
import torch
from delta_kernels import emulated
from helpers import distance, make_rollouts, make_samples, tiny_config

from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import load_weights

pytestmark = pytest.mark.slow

LOGPROBS = 1e-5  # absolute
GRADIENTS = 2e-5  # of each parameter, relative to its norm
DECAY = ("A_log", "dt_bias", "in_proj_a.weight")
DECAY_GRADIENTS = 3e-2
"""transformers' chunked rule, with which padded rows run, takes differences of cumulated decays and
loses digits in the gradient of what the decay is made of. The emulated kernel goes token by token:
against itself in float64 it is off by 6e-6 there, the padded reference by 1.8e-2."""


@pytest.fixture(scope="module")
def setting(tiny_folders):
    """(assets, rollouts) of prompts with none, one, two and four pictures."""
    path = tiny_folders("qwen3_5")
    assets = open_assets(path)
    prompts = PromptRenderer(assets, tiny_config(path).data).render(make_samples())
    return assets, make_rollouts(prompts, responses=4)


def scores(setting, layout, dtype="float32", checkpointing=False):
    """Return the rollouts' log-probs and the gradients of a weighted sum of them."""
    assets, rollouts = setting
    model = load_weights(assets, dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(model, assets, 0.8, layout)
    logprobs_N = policy(rollouts).out.logprobs_N
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    parts = logprobs_N.split(lengths)
    sum(r.advantage * part.sum() for r, part in zip(rollouts, parts, strict=True)).backward()
    gradients = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return logprobs_N.detach().float(), gradients


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_kernels_form_is_the_padded_reference(setting, checkpointing):
    expected, expected_gradients = scores(setting, "padded")
    with emulated() as calls:
        found, gradients = scores(setting, "shared_prefix", checkpointing=checkpointing)
    # Two calls a layer; checkpointing computes each layer once more.
    layers = setting[0].config.text_config.layer_types.count("linear_attention")
    assert len(calls) == 2 * layers * (2 if checkpointing else 1)
    assert len({id(call["cu_seqlens"]) for call in calls}) == 2  # bounds are made once
    torch.testing.assert_close(found, expected, atol=LOGPROBS, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        gap = float((gradients[name] - gradient).norm())
        bound = DECAY_GRADIENTS if name.endswith(DECAY) else GRADIENTS
        assert gap <= bound * float(gradient.norm()) + 1e-9, (name, gap)


def test_in_bfloat16_the_forms_round_alike(setting):
    """Each form against float32: the kernels' is no further off than PyTorch's."""
    exact, exact_gradients = scores(setting, "shared_prefix")
    batched, batched_gradients = scores(setting, "shared_prefix", "bfloat16")
    with emulated():
        kernels, kernel_gradients = scores(setting, "shared_prefix", "bfloat16")
    rounding = float((batched - exact).abs().mean())
    assert 1e-4 < rounding < 0.1
    assert float((kernels - exact).abs().mean()) < 1.5 * rounding
    rounding = distance(batched_gradients, exact_gradients)
    assert distance(kernel_gradients, exact_gradients) < 1.5 * rounding
    assert not torch.equal(kernels, batched)  # another path
