"""The shapes of the Qwen3-VL family, so that a plan can be made where no hub can be reached.

Facts from the models' own published config.json files, by size; everything not named here is the
default of transformers' configuration class. Weights are never here.
"""

from __future__ import annotations

from typing import Any

_VISION_SMALL = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
                 "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip
_VISION_LARGE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
                 "deepstack_visual_indexes": [8, 16, 24]}  # fmt: skip
_TEXT = {"vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8}
_ROPE = {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_section": [24, 20, 20],
         "mrope_interleaved": True}  # fmt: skip

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-VL-2B": {
        "text": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                 "num_attention_heads": 16},
        "vision": _VISION_SMALL,
        "tied": True,
    },
    "Qwen3-VL-4B": {
        "text": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                 "num_attention_heads": 32},
        "vision": _VISION_SMALL,
        "tied": True,
    },
    "Qwen3-VL-8B": {
        "text": {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
                 "num_attention_heads": 32},
        "vision": _VISION_LARGE,
        "tied": False,
    },
    "Qwen3-VL-30B-A3B": {
        "text": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
                 "num_attention_heads": 32, "num_key_value_heads": 4, "num_experts": 128,
                 "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                 "decoder_sparse_step": 1, "mlp_only_layers": []},
        "vision": _VISION_LARGE,
        "tied": False,
    },
}  # fmt: skip
"""Model family name -> text and vision configuration, and whether head and embedding are one."""


def configuration(name: str) -> Any | None:
    """Return the transformers configuration for a hub id or folder named like a known size.

    `Qwen/Qwen3-VL-4B-Instruct` is `Qwen3-VL-4B`. None when no size matches.
    """
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    known = [size for size in SHAPES if size.lower() in name.lower()]
    if not known:
        return None
    shape = SHAPES[known[0]]
    text = _TEXT | {"rope_parameters": _ROPE, "tie_word_embeddings": shape["tied"]} | shape["text"]
    config_class = Qwen3VLMoeConfig if "num_experts" in text else Qwen3VLConfig
    return config_class(
        text_config=text,
        vision_config=shape["vision"] | {"out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=shape["tied"],
    )
