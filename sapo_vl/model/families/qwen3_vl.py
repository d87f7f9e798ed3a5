"""Qwen3-VL, dense: patches of 16 pixels, deepstack features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sapo_vl.model.families.qwen_vl import QwenVL
from sapo_vl.model.families.tiny_shape import (
    IMAGE_SIDE,
    ROPE,
    TEXT,
    VISION,
    VISION_WIDTHS,
    TinyShape,
)


class Qwen3VL(QwenVL):
    """Adds the deepstack features to the common part."""

    name = "Qwen3-VL"
    tiny = TinyShape(
        config="Qwen3VLConfig",
        processor="Qwen3VLProcessor",
        video_processor="Qwen3VLVideoProcessor",
        text=TEXT | {"head_dim": 32, "rope_parameters": ROPE | {"mrope_interleaved": True}},
        vision=VISION
        | VISION_WIDTHS
        | {
            "num_position_embeddings": (IMAGE_SIDE // 8) ** 2,
            "deepstack_visual_indexes": [0],
        },
    )

    def sum_features(self, features: Any) -> Tensor:
        """Return the sum of pooled and deepstack features (a list of pictures per level)."""
        parts = [*features.pooler_output]
        for level in features.deepstack_features:
            parts.extend(level)
        return torch.stack([part.float().sum() for part in parts]).sum()
