"""The minimum a batch needs: tokens and operations, each unique token and image counted once.

Forward and backward of a matrix product are three products of its size; attention counts visible
token pairs. A delta rule counts as in chunks of 64 tokens, its usual form. No recomputation, no
padding, the head on response positions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sapo_vl.schema import Prompt, Rollout
from sapo_vl.training.plan.seconds import rule_operations
from sapo_vl.training.plan.shape import model_shape


def tokens(rollouts: Sequence[Rollout]) -> tuple[int, int]:
    """Return the number of tokens packed (each prompt once) and padded (one row per response)."""
    prompts = {id(r.prompt): len(r.prompt.expanded_ids) for r in rollouts}
    packed = sum(prompts.values()) + sum(len(r.token_ids) for r in rollouts)
    width = max(prompts.values()) + max(len(r.token_ids) for r in rollouts)
    return packed, width * len(rollouts)


def flops(model: Any, rollouts: Sequence[Rollout], *, vision_trained: bool = True) -> float:
    """Return the operations of a forward and backward pass over unique tokens and images.

    A response's last token counts only at the head: nothing is predicted from it. Of a frozen
    vision tower, mergers included, only the forward pass counts. `model` may be on meta.
    """
    prompts = list({id(r.prompt): r.prompt for r in rollouts}.values())
    lengths = [(len(r.prompt.expanded_ids), len(r.token_ids) - 1) for r in rollouts]
    inputs = sum(len(prompt.expanded_ids) for prompt in prompts) + sum(n for _, n in lengths)
    pairs = sum(_half(len(prompt.expanded_ids)) for prompt in prompts)
    pairs += sum(p * n + _half(n) for p, n in lengths)
    shape = model_shape(model)
    attended = sum(net.query for net in shape.attentions) * pairs
    head = shape.head * sum(len(r.token_ids) for r in rollouts)
    rules = sum(rule_operations(net) / 2 + net.kernel * net.channels for net in shape.delta_nets)
    layers = _linear(model.model.language_model.layers)
    products = (layers + rules) * inputs + 2 * attended + head
    vision = sum(_vision_forward(model, prompt) for prompt in prompts)
    if not vision_trained:
        return 2.0 * (3.0 * products + vision)
    patches = sum(int(_patches(prompt).sum()) for prompt in prompts)
    pixel_gradient = model.model.visual.patch_embed.proj.weight.numel() * patches  # not needed
    return 2.0 * (3.0 * (products + vision) - pixel_gradient)


def _vision_forward(model: Any, prompt: Prompt) -> float:
    """Return the multiply-adds of the vision tower's forward pass over one prompt's images."""
    tower, config = model.model.visual, model.config.vision_config
    patches = _patches(prompt)
    mergers = sum(_linear(part) for name, part in tower.named_children() if "merger" in name)
    per_patch = tower.patch_embed.proj.weight.numel() + _linear(tower.blocks)
    attended = 2 * config.depth * config.hidden_size * int((patches**2).sum())
    count = int(patches.sum())
    return per_patch * count + mergers * (count // config.spatial_merge_size**2) + attended


def _patches(prompt: Prompt) -> Tensor:
    assert prompt.grid_thw is not None, "the benchmark's prompts have an image"
    return prompt.grid_thw.prod(-1)


def _half(length: int) -> float:
    return length * (length + 1) / 2


def _linear(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
