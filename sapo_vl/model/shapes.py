"""The sizes of Qwen3-VL and of the tiny model, for plans without weights or a hub.

From the models' published config.json files; keys that are missing here have the defaults of
transformers' config classes. Weights are never downloaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sapo_vl.config import tiny_family
from sapo_vl.model import tiny
from sapo_vl.model.families import family_of

VISION_SMALL: dict[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
VISION_LARGE: dict[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}
TEXT: dict[str, Any] = {
    "vocab_size": 151_936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5_000_000.0,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
EXPERTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


class Shape(NamedTuple):
    """One size of the family."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vision: dict[str, Any]
    tied: bool  # whether output head and token embedding share their weights
    experts: dict[str, Any] | None = None  # None: dense


SHAPES: dict[str, Shape] = {
    "Qwen3-VL-2B": Shape(2048, 6144, 28, 16, VISION_SMALL, tied=True),
    "Qwen3-VL-4B": Shape(2560, 9728, 36, 32, VISION_SMALL, tied=True),
    "Qwen3-VL-8B": Shape(4096, 12_288, 36, 32, VISION_LARGE, tied=False),
    "Qwen3-VL-30B-A3B": Shape(2048, 6144, 48, 32, VISION_LARGE, tied=False, experts=EXPERTS),
}


def configuration(name: str) -> Any | None:
    """Return the transformers config of the size that a hub id or folder name contains.

    `Qwen/Qwen3-VL-4B-Instruct` is a `Qwen3-VL-4B`; `tiny` and `tiny:FAMILY` are tiny models, whose
    vocabulary may be a few entries smaller once the tokenizer is trained. None when the name
    contains no known size. Raises DataError for an unknown FAMILY.
    """
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    family = tiny_family(name)
    if family is not None:
        return tiny.configuration(family_of(family))
    shape = next((SHAPES[size] for size in SHAPES if size.lower() in name.lower()), None)
    if shape is None:
        return None
    text = TEXT | {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "tie_word_embeddings": shape.tied,
    }
    config_class = Qwen3VLMoeConfig if shape.experts else Qwen3VLConfig
    return config_class(
        text_config=text | (shape.experts or {}),
        vision_config=shape.vision | {"out_hidden_size": shape.hidden_size},
        tie_word_embeddings=shape.tied,
    )
