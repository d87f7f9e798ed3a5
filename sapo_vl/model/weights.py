"""The policy's weights: load them, freeze components, list and hash what is trained or frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from sapo_vl.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from sapo_vl.model.assets import ModelAssets

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_weights(assets: ModelAssets, dtype: str) -> nn.Module:
    """Return the module with weights on the CPU in `dtype`, in training mode."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        assets.path, dtype=DTYPES[dtype], attn_implementation="sdpa"
    )
    model.config.use_cache = False
    return model.train()


def to_checkpoint_layout(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter in the layout of published folders, which vLLM loads.

    Experts are [E, in, out] there and [E, out, in] in transformers' modules; all else is alike.
    """
    if name.endswith(EXPERTS):
        return tensor.transpose(1, 2).contiguous()
    return tensor


def component(name: str) -> str:
    """Return the component that the parameter `name` belongs to: vision, merger or language."""
    if ".visual." in name or name.startswith("visual."):
        return "merger" if "merger" in name else "vision"
    return "language"


def freeze(model: nn.Module, components: Iterable[str]) -> None:
    """Stop the gradient of whole components; 'vision' takes the mergers with it.

    Raises ConfigError when nothing would be left to train.
    """
    frozen = set(components) | ({"merger"} if "vision" in components else set())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(component(name) not in frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model.freeze={sorted(frozen)} leaves nothing to train")


def trainable_rows(model: nn.Module) -> list[tuple[str, int, int]]:
    """Return (component, parameters, of these trained) for vision, merger, language and all."""
    rows = {name: [0, 0] for name in ("vision", "merger", "language", "all")}
    for name, parameter in model.named_parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 keeps only a shard
        for key in (component(name), "all"):
            rows[key][0] += count
            rows[key][1] += count if parameter.requires_grad else 0
    return [(name, total, trained) for name, (total, trained) in rows.items()]


def frozen_hash(model: nn.Module) -> str:
    """Return a digest of all frozen weights, which no training may change."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
