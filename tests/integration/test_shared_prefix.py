"""The shared-prefix layout against the padded reference: log-probs and gradients, float32.

Dense and mixture-of-experts Qwen3-VL and Qwen2.5-VL; prompts with 0, 1, 2 and 4 pictures of many
sizes in one batch; any split, order and checkpointing.
"""

from __future__ import annotations

import random

import pytest
import torch
from helpers import make_rollouts, make_samples, tiny_config

from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import load_weights

pytestmark = pytest.mark.slow

LOGPROBS = 1e-5  # absolute
GRADIENTS = 1e-5  # of each parameter, relative to its norm


@pytest.fixture(scope="module", params=FAMILIES)
def setting(request, tiny_folders):
    """(assets, model, rollouts) of one family."""
    path = tiny_folders(request.param)
    assets = open_assets(path)
    model = load_weights(assets, "float32")
    prompts = PromptRenderer(assets, tiny_config(path).data).render(make_samples())
    return assets, model, make_rollouts(prompts, responses=4)


def scores(assets, model, rollouts, layout, budget=10**6):
    """Return the rollouts' log-probs and the gradients of a weighted sum of them."""
    policy = Policy(model, assets, 0.8, layout)
    model.zero_grad()
    logprobs = {}
    for batch in policy.layout.plan(rollouts, budget):
        lengths = [len(rollout.token_ids) for rollout in batch]
        parts = policy(batch).out.logprobs_N.split(lengths)
        logprobs |= {id(rollout): part for rollout, part in zip(batch, parts, strict=True)}
        sum(r.advantage * part.sum() for r, part in zip(batch, parts, strict=True)).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return [logprobs[id(rollout)].detach() for rollout in rollouts], gradients


def agree(left, right):
    for a, b in zip(left[0], right[0], strict=True):
        torch.testing.assert_close(a, b, atol=LOGPROBS, rtol=0)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        gap = float((gradient - right[1][name]).norm())
        assert gap <= GRADIENTS * float(gradient.norm()) + 1e-9, (name, gap)


@pytest.fixture(scope="module")
def reference(setting):
    assets, model, rollouts = setting
    model.set_attn_implementation("sdpa")
    return scores(assets, model, rollouts, "padded")


@pytest.mark.parametrize("budget", [10**6, 150, 60, 16])
def test_any_budget_agrees_with_the_padded_reference(setting, reference, budget):
    agree(reference, scores(*setting, "shared_prefix", budget))


def test_any_order_agrees(setting, reference):
    assets, model, rollouts = setting
    order = list(range(len(rollouts)))
    random.Random(3).shuffle(order)
    logprobs, gradients = scores(assets, model, [rollouts[i] for i in order], "shared_prefix", 200)
    unshuffled = [logprobs[order.index(i)] for i in range(len(rollouts))]
    agree(reference, (unshuffled, gradients))


def test_gradient_checkpointing_agrees(setting, reference):
    _, model, _ = setting
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        agree(reference, scores(*setting, "shared_prefix"))
    finally:
        model.gradient_checkpointing_disable()


def test_a_response_does_not_see_its_neighbours(setting):
    assets, model, rollouts = setting
    alone, _ = scores(assets, model, rollouts[4:5], "shared_prefix")
    together, _ = scores(assets, model, rollouts, "shared_prefix")
    torch.testing.assert_close(alone[0], together[4], atol=LOGPROBS, rtol=0)


def test_a_prompt_and_its_pictures_are_computed_once(setting):
    assets, model, rollouts = setting
    policy = Policy(model, assets, 1.0, "shared_prefix")
    seen = []
    hook = model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].shape[0]), with_kwargs=True
    )
    policy(rollouts)
    hook.remove()
    patches = {id(r.prompt): r.prompt.pixel_values for r in rollouts}
    assert sum(seen) == sum(len(p) for p in patches.values() if p is not None)
