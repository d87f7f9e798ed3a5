"""The plan's activations against the tensors that autograd really keeps."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from helpers import make_rollouts, make_samples, tiny_config

from sapo_vl.learner import gated_delta, gated_delta_fla
from sapo_vl.learner.activations import recompute_activations
from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import freeze, load_weights
from sapo_vl.training.plan.activations import RULE_CHUNK, Row, saved_activations
from sapo_vl.training.plan.shape import model_shape

DTYPE_BYTES = {"bfloat16": 2, "float32": 4}


class Kept:
    """A tensor that the graph keeps; dies with the graph's need for it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Hold `tensor`."""
        self.tensor = tensor


class KernelRule(torch.autograd.Function):
    """Keeps what the delta rule's kernels on a GPU keep, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> Any:
        """Return outputs and last states of sequences that lie one after the other."""
        query, key, value, decay, beta, start, sequences = inputs
        kept = [torch.empty(x.shape, dtype=x.dtype) for x in (query, key, value, beta)]
        kept += [torch.empty(x.shape[:-1]) for x in (query, key)]  # factors of their norms
        kept += [torch.empty(decay.shape), torch.empty(*decay.shape, RULE_CHUNK, dtype=key.dtype)]
        ctx.save_for_backward(*kept, *([] if start is None else [start]))
        return torch.zeros_like(value), torch.zeros(
            sequences, value.shape[2], key.shape[3], value.shape[3]
        )


def kernel_rule(query, key, value, decay, beta, *, initial_state, cu_seqlens, **_):
    """Return what fla's chunk_gated_delta_rule returns, in its place."""
    return KernelRule.apply(query, key, value, decay, beta, initial_state, len(cu_seqlens) - 1)


def measured(renderer, config, *, on_cpu: bool = True) -> tuple[float, float]:
    """Return the bytes that autograd keeps of a row, and those that the plan says."""
    assets = open_assets(config.model.path)
    rollouts = make_rollouts(renderer.render(make_samples()), responses=12)
    model = load_weights(assets, config.model.dtype)
    freeze(model, config.model.freeze)
    recompute_activations(model, config.model.gradient_checkpointing)
    policy = Policy(model, assets, 1.0, "shared_prefix")
    batch = policy.layout.collate(rollouts, torch.device("cpu"))
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
    shape, groups = model_shape(model), batch.prefixes.groups
    row = Row(
        scored=len(batch.targets_N),
        patches=len(batch.pixel_values),
        prompts=[prompt for prompt, _ in groups],
        responses=[length for _, lengths in groups for length in lengths if length],
    )
    assert row.tokens == batch.input_ids.shape[1]
    if config.model.gradient_checkpointing == "all":
        # the cosines and sines, which recomputed layers keep as arguments
        width = shape.attentions[0].rotary
        real += 2 * row.tokens * width * DTYPE_BYTES[config.model.dtype]
    return real, saved_activations(shape, config, row, on_cpu=on_cpu)


def config_of(folder, dtype: str, choice: str, frozen: list[str]):
    """Return the configuration of a measurement."""
    return tiny_config(
        folder,
        f"model.dtype={dtype}",
        f"model.gradient_checkpointing={choice}",
        f"model.freeze={frozen}",
    )


@pytest.mark.parametrize(
    ("family", "frozen", "dtype", "choice"),
    [
        ("qwen3_vl", [], "float32", "none"),
        ("qwen3_vl", [], "bfloat16", "alternate"),
        ("qwen3_vl", [], "float32", "all"),
        ("qwen3_vl", ["vision"], "bfloat16", "none"),
        ("qwen3_vl", ["vision"], "float32", "alternate"),
        ("qwen3_vl", ["vision"], "bfloat16", "all"),
        ("qwen3_vl_moe", ["vision"], "bfloat16", "none"),
        ("qwen3_vl_moe", [], "float32", "alternate"),
        ("qwen3_vl_moe", ["vision"], "float32", "all"),
        ("qwen2_5_vl", ["vision"], "float32", "none"),
        ("qwen3_5", [], "float32", "none"),
        ("qwen3_5", ["vision"], "bfloat16", "none"),
        ("qwen3_5", ["vision"], "bfloat16", "all"),
        ("qwen3_5_moe", ["vision"], "bfloat16", "alternate"),
    ],
)
def test_activations_are_what_autograd_saves(tiny_folders, renderer, family, frozen, dtype, choice):
    folder = tiny_folders(family)
    real, planned = measured(renderer, config_of(folder, dtype, choice, frozen))
    assert planned == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_delta_net_keeps_beside_the_kernels_of_its_rule(
    tiny_folders, renderer, monkeypatch, dtype
):
    monkeypatch.setattr(gated_delta, "choose_form", lambda device, dtype: "fla")
    monkeypatch.setattr(gated_delta_fla, "delta_kernel", lambda: kernel_rule)
    config = config_of(tiny_folders("qwen3_5"), dtype, "none", ["vision"])
    real, planned = measured(renderer, config, on_cpu=False)
    assert planned == pytest.approx(real, rel=0.03)
