"""The published sizes of Qwen's families, and the tiny models, for plans without weights or a hub.

From the models' published config.json files; keys that are missing here have the defaults of
transformers' config classes. Parameter counts agree with those of the published weights, for
Qwen3.5 less the layer that predicts several tokens, which is not trained. Weights are never
downloaded.

Qwen3.6 is Qwen3.5's architecture in two of its sizes.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sapo_vl.config import tiny_family
from sapo_vl.model import tiny
from sapo_vl.model.families import family_of

VISION_BASE: dict[str, Any] = {
    "depth": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_heads": 12,
}
VISION_SMALL: dict[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
}
VISION_LARGE: dict[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
}
VISION_2: dict[str, Any] = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16}
VISION_2_5: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
DEEPSTACK_SMALL = {"deepstack_visual_indexes": [5, 11, 17]}
DEEPSTACK_LARGE = {"deepstack_visual_indexes": [8, 16, 24]}

TEXT_3: dict[str, Any] = {
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
EXPERTS_3: dict[str, Any] = {
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
TEXT_3_5: dict[str, Any] = {
    "vocab_size": 248_320,
    "head_dim": 256,
    "max_position_embeddings": 262_144,
    "linear_num_key_heads": 16,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    },
}
TEXT_2: dict[str, Any] = {
    "vocab_size": 152_064,
    "use_sliding_window": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [16, 24, 24],
    },
}


class Kind(NamedTuple):
    """What the sizes of a family have in common."""

    config: str  # transformers' config class
    text: dict[str, Any]
    vision_out: str = "out_hidden_size"  # the vision config's key of the text model's width


QWEN2_VL = Kind("Qwen2VLConfig", TEXT_2 | {"max_position_embeddings": 32_768}, "hidden_size")
QWEN2_5_VL = Kind("Qwen2_5_VLConfig", TEXT_2 | {"max_position_embeddings": 128_000})
QWEN3_VL = Kind("Qwen3VLConfig", TEXT_3)
QWEN3_VL_MOE = Kind("Qwen3VLMoeConfig", TEXT_3)
QWEN3_5 = Kind("Qwen3_5Config", TEXT_3_5)
QWEN3_5_MOE = Kind("Qwen3_5MoeConfig", TEXT_3_5)


class Shape(NamedTuple):
    """One size of a family."""

    kind: Kind
    width: int  # of the residual stream
    ffn: int | None  # width of a dense layer's network; None: there is none
    layers: int
    heads: int  # of queries
    key_heads: int  # of keys and values
    vision: dict[str, Any]  # the width of its output is the text model's
    tied: bool  # whether output head and token embedding share their weights
    rest: dict[str, Any] | None = None  # further keys of the text config


def delta(value_heads: int) -> dict[str, Any]:
    """Return the keys of gated delta nets whose keys have 16 heads; all heads are 128 wide."""
    return {"linear_num_value_heads": value_heads}


def experts(count: int, chosen: int, ffn: int) -> dict[str, Any]:
    """Return the keys of Qwen3.5's experts, of which one more is taken by every token."""
    return {
        "num_experts": count,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": ffn,
        "shared_expert_intermediate_size": ffn,
    }


SMALL, LARGE = VISION_SMALL | DEEPSTACK_SMALL, VISION_LARGE | DEEPSTACK_LARGE

SHAPES: dict[str, Shape] = {
    "Qwen2-VL-2B": Shape(
        QWEN2_VL, 1536, 8960, 28, 12, 2, VISION_2, True, {"vocab_size": 151_936}
    ),
    "Qwen2-VL-7B": Shape(QWEN2_VL, 3584, 18_944, 28, 28, 4, VISION_2, False),
    "Qwen2.5-VL-3B": Shape(
        QWEN2_5_VL, 2048, 11_008, 36, 16, 2, VISION_2_5, True, {"vocab_size": 151_936}
    ),
    "Qwen2.5-VL-7B": Shape(QWEN2_5_VL, 3584, 18_944, 28, 28, 4, VISION_2_5, False),
    "Qwen2.5-VL-32B": Shape(
        QWEN2_5_VL, 5120, 27_648, 64, 40, 8, VISION_2_5 | {"intermediate_size": 3456}, False
    ),
    "Qwen3-VL-2B": Shape(QWEN3_VL, 2048, 6144, 28, 16, 8, SMALL, True),
    "Qwen3-VL-4B": Shape(QWEN3_VL, 2560, 9728, 36, 32, 8, SMALL, True),
    "Qwen3-VL-8B": Shape(QWEN3_VL, 4096, 12_288, 36, 32, 8, LARGE, False),
    "Qwen3-VL-30B-A3B": Shape(QWEN3_VL_MOE, 2048, 6144, 48, 32, 4, LARGE, False, EXPERTS_3),
    "Qwen3.5-0.8B": Shape(QWEN3_5, 1024, 3584, 24, 8, 2, VISION_BASE, True, delta(16)),
    "Qwen3.5-2B": Shape(QWEN3_5, 2048, 6144, 24, 8, 2, VISION_SMALL, True, delta(16)),
    "Qwen3.5-4B": Shape(QWEN3_5, 2560, 9216, 32, 16, 4, VISION_SMALL, True, delta(32)),
    "Qwen3.5-9B": Shape(QWEN3_5, 4096, 12_288, 32, 16, 4, VISION_LARGE, False, delta(32)),
    "Qwen3.5-27B": Shape(QWEN3_5, 5120, 17_408, 64, 24, 4, VISION_LARGE, False, delta(48)),
    "Qwen3.5-35B-A3B": Shape(
        QWEN3_5_MOE, 2048, None, 40, 16, 2, VISION_LARGE, False,
        delta(32) | experts(256, 8, 512),
    ),
    "Qwen3.5-122B-A10B": Shape(
        QWEN3_5_MOE, 3072, None, 48, 32, 2, VISION_LARGE, False,
        delta(64) | experts(256, 8, 1024),
    ),
    "Qwen3.5-397B-A17B": Shape(
        QWEN3_5_MOE, 4096, None, 60, 32, 2, VISION_LARGE, False,
        delta(64) | experts(512, 10, 1024),
    ),
}  # fmt: skip
SHAPES |= {name.replace("3.5", "3.6"): SHAPES[name] for name in ("Qwen3.5-27B", "Qwen3.5-35B-A3B")}


def configuration(name: str) -> Any | None:
    """Return the transformers config of the size that a hub id or folder name contains.

    `Qwen/Qwen3-VL-4B-Instruct` is a `Qwen3-VL-4B`; `tiny` and `tiny:FAMILY` are tiny models, whose
    vocabulary may be a few entries smaller once the tokenizer is trained. None when the name
    contains no known size. Raises DataError for an unknown FAMILY.
    """
    family = tiny_family(name)
    if family is not None:
        return tiny.configuration(family_of(family))
    found = [size for size in SHAPES if re.search(rf"\b{re.escape(size)}\b", name, re.IGNORECASE)]
    return of_size(found[0]) if found else None


def of_size(size: str) -> Any:
    """Return the transformers config of an entry of SHAPES."""
    import transformers

    shape = SHAPES[size]
    text = {
        **shape.kind.text,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "tie_word_embeddings": shape.tied,
        **({} if shape.ffn is None else {"intermediate_size": shape.ffn}),
        **(shape.rest or {}),
    }
    return getattr(transformers, shape.kind.config)(
        text_config=text,
        vision_config=shape.vision | {shape.kind.vision_out: shape.width},
        tie_word_embeddings=shape.tied,
    )
