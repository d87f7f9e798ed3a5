"""What a family's tiny random model looks like; model/tiny.py builds it.

Two defaults of the large models are changed, because so small a model would not learn within
minutes otherwise: the initialization (std 0.06 instead of 0.02; vision position embeddings of unit
variance, see tiny.py) and the pixel normalization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IMAGE_SIDE = 64  # pixels of the procedural pictures; 16 image tokens at patch 8, merge 2


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Names of transformers' classes, and the keys of their config that are not left alone."""

    config: str
    processor: str
    video_processor: str  # the processor requires the object but never calls it
    text: Mapping[str, Any]
    vision: Mapping[str, Any]


TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.06,
    "tie_word_embeddings": True,
}
"""Common to all families: heads of 32, the smallest that vLLM has on a CPU."""

ROPE: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "mrope_section": [6, 5, 5],
}

VISION: dict[str, Any] = {
    "depth": 2,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.06,
}

VISION_WIDTHS: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "out_hidden_size": 128,
}
