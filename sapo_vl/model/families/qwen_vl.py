"""What Qwen's families have in common: vision tokens, M-RoPE, module paths, processor.

Left out: video, the only place where the families' position ids differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sapo_vl.errors import DataError
from sapo_vl.model.families.base import Component
from sapo_vl.model.families.tiny_shape import TinyShape


class QwenVL:
    """Base class of the families; see base.Family for what each method promises."""

    name: str
    tiny: TinyShape
    layer_types: tuple[str, ...] = ("full_attention",)
    """Kinds of text layers that the learner can run on a shared-prefix row."""
    vision_tokens: Mapping[str, str] = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    """Not `<|vision_pad|>`, nor the audio tokens in Qwen3.5's vocabulary: no code reads them."""

    def check(self, config: Any, image_processor: Any) -> None:
        """Raise DataError for a text layer of a kind that is not in `layer_types`.

        Also where the image processor cuts other patches than the vision tower takes.
        The shared-prefix attention has no sliding window; one would be ignored. Where the config
        has no `layer_types`, transformers ignores `sliding_window` and vLLM applies it.
        """
        text = config.text_config
        layer_types = getattr(text, "layer_types", None) or []
        window = getattr(text, "sliding_window", None)
        if window and not layer_types:
            raise DataError(
                f"text_config.sliding_window={window} is not supported for {self.name}: remove it"
            )
        for i, layer_type in enumerate(layer_types):
            if layer_type not in self.layer_types:
                raise DataError(
                    f"text_config.layer_types[{i}]={layer_type!r} is not supported for "
                    f"{self.name}: only {' and '.join(map(repr, self.layer_types))} "
                    f"{'is' if len(self.layer_types) == 1 else 'are'}"
                )

        _check_patches(config.vision_config, image_processor)

    def image_factor(self, config: Any) -> int:
        """Return patch size times merge size (32 for Qwen3-VL, 28 for Qwen2.5-VL)."""
        return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)

    def visual_tokens(self, grid_thw: Sequence[int], config: Any) -> int:
        """Return the number of patches over merge size squared."""
        time, height, width = grid_thw
        return time * height * width // config.vision_config.spatial_merge_size**2

    def prompt_positions(
        self, expanded_ids: Sequence[int], grids: Sequence[Sequence[int]], config: Any
    ) -> tuple[Tensor, int]:
        """Return M-RoPE positions [3, L] and the next position."""
        merge = int(config.vision_config.spatial_merge_size)
        return mrope_positions(expanded_ids, int(config.image_token_id), grids, merge)

    def component(self, parameter: str) -> Component:
        """Return the component; `visual.pos_embed` is vision, deepstack mergers are mergers."""
        if ".visual." in parameter or parameter.startswith("visual."):
            return "merger" if "merger" in parameter else "vision"
        return "language"

    def to_checkpoint_layout(self, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor unchanged: modules and checkpoints agree."""
        del name
        return tensor

    def patch_embedding(self, model: Any) -> nn.Module:
        """Return `model.visual.patch_embed`."""
        return model.get_submodule("model.visual.patch_embed")

    def expert_blocks(self, model: Any) -> list[nn.Module]:
        """Return the text layers' MLPs that hold a router (`gate`) and `experts`."""
        mlps = [layer.mlp for layer in model.model.language_model.layers]
        return [mlp for mlp in mlps if {"gate", "experts"} <= dict(mlp.named_children()).keys()]

    def delta_nets(self, model: Any) -> list[nn.Module]:
        """Return none: the text layers are attention alone."""
        del model
        return []

    def encode_images(self, base: Any, pixel_values: Tensor, grid_thw: Tensor) -> Any:
        """Return the tower's output: `pooler_output` holds [S, D] per picture."""
        return base.get_image_features(pixel_values, grid_thw, return_dict=True)

    def sum_features(self, features: Any) -> Tensor:
        """Return the sum of the pooled features."""
        return torch.stack([f.float().sum() for f in features.pooler_output]).sum()

    def processor_kwargs(self, min_pixels: int, max_pixels: int) -> dict[str, Any]:
        """Return the pixel budget under the names of Qwen's image processor (areas, not edges)."""
        return {
            "do_resize": False,
            "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        }

    def engine_options(self, config: Any, *, on_gpu: bool) -> dict[str, Any]:
        """Return none: text layers of attention alone need nothing beyond the common arguments."""
        del config, on_gpu
        return {}


def _check_patches(vision: Any, image_processor: Any) -> None:
    for key, cut in (
        ("patch_size", image_processor.patch_size),
        ("spatial_merge_size", image_processor.merge_size),
        ("temporal_patch_size", image_processor.temporal_patch_size),
    ):
        taken = getattr(vision, key)
        if not isinstance(taken, int) or taken < 1 or taken != cut:
            raise DataError(
                f"config.json's vision_config.{key}={taken}, where the image processor has {cut}: "
                "they must be the same number; take both from the same model"
            )


def mrope_positions(
    expanded_ids: Sequence[int], image_id: int, grids: Sequence[Sequence[int]], merge: int
) -> tuple[Tensor, int]:
    """Return M-RoPE positions [3, L] of an expanded prompt and the position that follows it.

    Text advances all three axes together. An image that starts at p has time p, height p..p+h-1
    and width p..p+w-1 (h, w after the merge), and the text after it continues at p + max(h, w), so
    that N image tokens advance the position by far less than N. Equal to `get_rope_index` of
    transformers' Qwen2.5-VL and Qwen3-VL for still pictures.
    """
    parts, position, i, remaining = [], 0, 0, iter(grids)
    while i < len(expanded_ids):
        if expanded_ids[i] == image_id:
            t, h, w = next(remaining)
            h, w = h // merge, w // merge
            axes = torch.stack(
                torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
            )
            parts.append(axes.reshape(3, -1) + position)
            i, position = i + t * h * w, position + max(h, w)
        else:
            end = i
            while end < len(expanded_ids) and expanded_ids[end] != image_id:
                end += 1
            parts.append(torch.arange(position, position + end - i).expand(3, -1))
            i, position = end, position + end - i
    return torch.cat(parts, dim=1), position
