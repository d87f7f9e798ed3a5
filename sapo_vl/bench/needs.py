"""What a batch needs at least: tokens and arithmetic, each unique token and picture once.

Forward and backward of a matrix product are three products of its size; of attention's two, the
visible pairs of tokens count. No recomputation, no padding, the head on response positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sapo_vl.packing import TrainRow

FORWARD_AND_BACKWARD = 3


def tokens(rows: Sequence[TrainRow]) -> tuple[int, int]:
    """Return the tokens of `rows` in packed form (prompts once) and padded side by side."""
    prompts = {id(row.prompt): len(row.prompt.expanded_ids) for row in rows}
    packed = sum(prompts.values()) + sum(len(row.token_ids) for row in rows)
    width = max(prompts.values()) + max(len(row.token_ids) for row in rows)
    return packed, width * len(rows)


def flops(model: Any, rows: Sequence[TrainRow]) -> float:
    """Return the operations of one forward and backward pass over unique tokens and pictures."""
    text, vision = model.model.language_model, model.model.visual
    prompts = {id(row.prompt): row.prompt for row in rows}.values()
    packed, _ = tokens(rows)
    pairs = sum(_half(len(prompt.expanded_ids)) for prompt in prompts)
    pairs += sum(
        len(row.prompt.expanded_ids) * len(row.token_ids) + _half(len(row.token_ids))
        for row in rows
    )
    config = model.config.text_config
    attended = config.num_hidden_layers * config.num_attention_heads * config.head_dim * pairs
    responses = sum(len(row.token_ids) for row in rows)
    head = config.vocab_size * config.hidden_size * responses
    forward = 2.0 * (_linear(text.layers) * packed + 2 * attended + head)
    sight = model.config.vision_config
    for prompt in prompts:
        patches = int(prompt.grid_thw.prod(-1).sum())
        squares = int((prompt.grid_thw.prod(-1) ** 2).sum())
        merged = patches // sight.spatial_merge_size**2
        mergers = _linear(vision.merger) + _linear(vision.deepstack_merger_list)
        forward += 2.0 * (
            (vision.patch_embed.proj.weight.numel() + _linear(vision.blocks)) * patches
            + mergers * merged
            + 2 * sight.depth * sight.hidden_size * squares
        )
    return FORWARD_AND_BACKWARD * forward


def _half(length: int) -> float:
    return length * (length + 1) / 2


def _linear(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
