"""The plan's activations against the tensors that autograd really keeps."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from helpers import make_rollouts, make_samples, tiny_config

from sapo_vl.learner.activations import recompute_activations
from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import freeze, load_weights
from sapo_vl.training.plan.learner import saved_activations
from sapo_vl.training.plan.shape import model_shape

HEAD_WIDTH = 32


class Kept:
    """A tensor that the graph keeps; dies with the graph's need for it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Hold `tensor`."""
        self.tensor = tensor


@pytest.mark.parametrize(
    ("kind", "frozen", "dtype", "choice"),
    [
        ("tiny_folder", [], "float32", "none"),
        ("tiny_folder", [], "bfloat16", "alternate"),
        ("tiny_folder", [], "float32", "all"),
        ("tiny_folder", ["vision"], "bfloat16", "none"),
        ("tiny_folder", ["vision"], "float32", "alternate"),
        ("tiny_folder", ["vision"], "bfloat16", "all"),
        ("tiny_moe_folder", ["vision"], "bfloat16", "none"),
        ("tiny_moe_folder", [], "float32", "alternate"),
        ("tiny_moe_folder", ["vision"], "float32", "all"),
    ],
)
def test_activations_are_what_autograd_saves(request, renderer, kind, frozen, dtype, choice):
    folder = request.getfixturevalue(kind)
    assets = open_assets(folder)
    rollouts = make_rollouts(renderer.render(make_samples()), responses=12)
    model = load_weights(assets, dtype)
    freeze(model, frozen)
    recompute_activations(model, choice)
    policy = Policy(model, assets, 1.0, "shared_prefix")
    batch = policy.layout.collate(rollouts, torch.device("cpu"))
    tokens, scored = batch.input_ids.shape[1], len(batch.targets_N)
    patches = len(batch.pixel_values)
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*policy.parameters(), *policy.buffers())
    }
    live: weakref.WeakSet[Kept] = weakref.WeakSet()

    def keep(tensor: torch.Tensor) -> Kept:
        kept = Kept(tensor)
        live.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        out = policy(rollouts)
    assert out.out.logprobs_N.requires_grad
    gc.collect()
    storages = [kept.tensor.untyped_storage() for kept in live]
    real = sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in own}.values())
    if choice == "all":  # the cosines and sines, which recomputed layers keep as arguments
        real += 2 * tokens * HEAD_WIDTH * torch.finfo(getattr(torch, dtype)).bits // 8
    config = tiny_config(
        folder,
        f"model.dtype={dtype}",
        f"model.gradient_checkpointing={choice}",
        f"model.freeze={frozen}",
    )
    assert saved_activations(model_shape(model), config, tokens, scored, patches) == pytest.approx(
        real, rel=0.03
    )
