"""The shared-prefix layout against the padded reference: log-probs and gradients, float32.

Dense and mixture-of-experts Qwen3-VL and Qwen2.5-VL; prompts with 0, 1, 2 and 4 pictures of many
sizes in one batch; any split, order and checkpointing.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from helpers import make_rollouts, make_samples, tiny_config

from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import load_weights

pytestmark = pytest.mark.slow

LOGPROBS = 1e-5  # absolute
GRADIENTS = 1e-5  # of each parameter, relative to its norm


def older_model(assets):
    """A tiny Qwen2.5-VL with the tiny folder's token ids, and the assets that describe it."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    known, text = assets.config, assets.config.text_config
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 128,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=known.image_token_id,
        video_token_id=known.video_token_id,
        vision_start_token_id=known.vision_start_token_id,
        vision_end_token_id=known.vision_end_token_id,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.config.use_cache = False
    return model, dataclasses.replace(assets, config=config)


@pytest.fixture(scope="module", params=["dense", "experts", "qwen2.5"])
def setting(request, tiny_folder, tiny_moe_folder):
    """(assets, model, rollouts) of one architecture."""
    path = tiny_moe_folder if request.param == "experts" else tiny_folder
    assets = open_assets(path)
    if request.param == "qwen2.5":
        model, assets = older_model(assets)
    else:
        model = load_weights(assets, "float32")
    prompts = PromptRenderer(assets, tiny_config(path).data).render(make_samples())
    return assets, model, make_rollouts(prompts, responses=4)


def scores(assets, model, rollouts, layout, budget=10**6):
    """Return log-probs by rollout and the gradients of a weighted sum of them."""
    policy = Policy(model, assets, 0.8, layout)
    model.zero_grad()
    by_rollout = {}
    for batch in policy.layout.plan(rollouts, budget):
        logprobs = policy(batch).out.logprobs_N
        ends = torch.tensor([len(rollout.token_ids) for rollout in batch]).cumsum(0)[:-1]
        parts = torch.tensor_split(logprobs, ends)
        for rollout, part in zip(batch, parts, strict=True):
            by_rollout[id(rollout)] = part.detach()
        sum(
            rollout.advantage * part.sum() for rollout, part in zip(batch, parts, strict=True)
        ).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return [by_rollout[id(rollout)] for rollout in rollouts], gradients


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
    mixed = scores(assets, model, [rollouts[i] for i in order], "shared_prefix", 200)
    back = [mixed[0][order.index(i)] for i in range(len(rollouts))]
    agree(reference, (back, mixed[1]))


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
