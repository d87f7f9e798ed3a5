"""What a batch needs at least: tokens and arithmetic, each unique token and picture once.

Forward and backward of a matrix product are three products of its size; of attention, the visible
pairs of tokens count. No recomputation, no padding, the head on response positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sapo_vl.learner.rows import TrainRow
from sapo_vl.model.prompts import Prompt


def tokens(rows: Sequence[TrainRow]) -> tuple[int, int]:
    """Return the tokens of `rows` in packed form (prompts once) and padded side by side."""
    prompts = {id(row.prompt): len(row.prompt.expanded_ids) for row in rows}
    packed = sum(prompts.values()) + sum(len(row.token_ids) for row in rows)
    width = max(prompts.values()) + max(len(row.token_ids) for row in rows)
    return packed, width * len(rows)


def flops(model: Any, rows: Sequence[TrainRow]) -> float:
    """Return the operations of one forward and backward pass over unique tokens and pictures.

    A response's last token counts at the head alone: nothing is predicted from it.
    """
    prompts = list({id(row.prompt): row.prompt for row in rows}.values())
    lengths = [(len(row.prompt.expanded_ids), len(row.token_ids) - 1) for row in rows]
    inputs = sum(len(prompt.expanded_ids) for prompt in prompts) + sum(n for _, n in lengths)
    pairs = sum(_half(len(prompt.expanded_ids)) for prompt in prompts)
    pairs += sum(p * n + _half(n) for p, n in lengths)
    config = model.config.text_config
    attended = config.num_hidden_layers * config.num_attention_heads * config.head_dim * pairs
    head = config.vocab_size * config.hidden_size * sum(len(row.token_ids) for row in rows)
    products = _linear(model.model.language_model.layers) * inputs + 2 * attended + head
    forward_and_backward = 3.0 * (products + sum(_sight(model, prompt) for prompt in prompts))
    patches = sum(int(_patches(prompt).sum()) for prompt in prompts)
    unneeded = model.model.visual.patch_embed.proj.weight.numel() * patches  # gradient of pixels
    return 2.0 * (forward_and_backward - unneeded)


def _sight(model: Any, prompt: Prompt) -> float:
    """Return the multiply-adds of the vision tower's forward pass over one prompt's pictures."""
    tower, config = model.model.visual, model.config.vision_config
    patches = _patches(prompt)
    mergers = _linear(tower.merger) + _linear(tower.deepstack_merger_list)
    own = tower.patch_embed.proj.weight.numel() + _linear(tower.blocks)
    attended = 2 * config.depth * config.hidden_size * int((patches**2).sum())
    count = int(patches.sum())
    return own * count + mergers * (count // config.spatial_merge_size**2) + attended


def _patches(prompt: Prompt) -> Tensor:
    assert prompt.grid_thw is not None, "the benchmark's prompts hold a picture"
    return prompt.grid_thw.prod(-1)


def _half(length: int) -> float:
    return length * (length + 1) / 2


def _linear(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
