"""Recomputed layers: the same gradient from less saved memory."""

from __future__ import annotations

import pytest
import torch
from helpers import distance, make_rollouts, make_samples
from transformers.modeling_layers import GradientCheckpointingLayer

from sapo_vl.learner.activations import recompute_activations
from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import freeze, load_weights

CHOICES = ("none", "alternate", "all")


def recomputed(model) -> list[str]:
    """Return the names of the layers that will be recomputed."""
    return [
        name.removeprefix("model.").removeprefix("language_model.")
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]


def trained(assets, rollouts, choice: str, frozen: list[str]) -> tuple[int, int, dict]:
    """Return bytes saved for the backward pass, runs of the first vision layer, the gradient."""
    model = load_weights(assets, "float32")
    freeze(model, frozen)
    recompute_activations(model, choice)
    policy = Policy(model, assets, 0.7, "shared_prefix")
    weights = {p.data_ptr() for p in model.parameters()}
    saved, runs = {}, []
    model.model.visual.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = policy(rollouts).out
    size = sum(saved.values())  # while the graph keeps them alive: no address counts twice
    (out.logprobs_N * torch.linspace(-1, 1, len(out.logprobs_N))).sum().backward()
    gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return size, len(runs), gradient


@pytest.mark.parametrize("kind", ["tiny_folder", "tiny_moe_folder"])
@pytest.mark.parametrize("frozen", [[], ["vision"], ["merger"]])
def test_recomputing_saves_memory_and_changes_no_gradient(request, kind, frozen, renderer):
    assets = open_assets(request.getfixturevalue(kind))
    rollouts = make_rollouts(renderer.render(make_samples()))
    none, alternate, all_ = (trained(assets, rollouts, choice, frozen) for choice in CHOICES)
    assert distance(alternate[2], none[2]) < 1e-6
    assert distance(all_[2], none[2]) < 1e-6
    assert all_[0] < 0.7 * alternate[0]
    assert alternate[0] < 0.8 * none[0]
    # the pictures pass once; a trained tower's first layer runs again in the backward pass
    again = 1 if frozen == ["vision"] else 2
    assert (none[1], alternate[1], all_[1]) == (1, again, again)


def test_alternate_counts_each_tower_from_its_first_layer(assets):
    model = load_weights(assets, "float32")
    assert recomputed(model) == []
    recompute_activations(model, "none")
    assert recomputed(model) == []
    recompute_activations(model, "alternate")
    assert recomputed(model) == ["visual.blocks.0", "layers.0"]
    recompute_activations(model, "all")
    assert recomputed(model) == ["visual.blocks.0", "visual.blocks.1", "layers.0", "layers.1"]
