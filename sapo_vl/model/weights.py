"""The policy's weights: load them, freeze components, count and hash them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from sapo_vl.errors import ConfigError
from sapo_vl.model.assets import ModelAssets
from sapo_vl.model.families import family_of
from sapo_vl.model.rotary import restore_frequencies

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_weights(assets: ModelAssets, dtype: str) -> Any:
    """Return the transformers module with weights on the CPU in `dtype`, in training mode."""
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(
        assets.path, dtype=DTYPES[dtype], attn_implementation="sdpa"
    )
    model.config.use_cache = False
    restore_frequencies(model)
    return model.train()


def freeze(model: Any, components: Iterable[str]) -> None:
    """Stop the gradient of whole components ('vision', 'merger', 'language').

    'vision' includes the mergers. Raises ConfigError when a component has no parameters in this
    model, or when nothing is left to train.
    """
    component = family_of(model.config.model_type).component
    present = {component(name) for name, _ in model.named_parameters()}
    requested = set(components)
    for name in sorted(requested - present):
        raise ConfigError(
            f"model.freeze={sorted(requested)}: this {model.config.model_type} model has no "
            f"parameters in the component {name!r}"
        )
    frozen = requested | ({"merger"} if "vision" in requested else set())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(component(name) not in frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model.freeze={sorted(frozen)} leaves nothing to train")


def trainable_rows(model: Any) -> list[tuple[str, int, int]]:
    """Return (component, parameters, trained parameters) of vision, merger, language and all."""
    component = family_of(model.config.model_type).component
    rows = {name: [0, 0] for name in ("vision", "merger", "language", "all")}
    for name, parameter in model.named_parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 keeps only a shard
        for key in (component(name), "all"):
            rows[key][0] += count
            rows[key][1] += count if parameter.requires_grad else 0
    return [(name, total, trained) for name, (total, trained) in rows.items()]


def frozen_hash(model: Any) -> str:
    """Return a digest of all frozen weights, which training must not change."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
