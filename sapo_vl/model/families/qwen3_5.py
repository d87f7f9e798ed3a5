"""Qwen3.5 and Qwen3.6, dense: three of four text layers are gated delta nets, no deepstack."""

from __future__ import annotations

from typing import Any

from torch import nn

from sapo_vl.errors import DataError
from sapo_vl.model.families.qwen_vl import QwenVL
from sapo_vl.model.families.tiny_shape import (
    IMAGE_SIDE,
    ROPE,
    TEXT,
    VISION,
    VISION_WIDTHS,
    TinyShape,
)

LINEAR = "linear_attention"

WIDTHS_ON_CPU = (64, 128)
"""Widths of a gated delta net's heads for which vLLM 0.32 has kernels on a CPU."""


class Qwen35(QwenVL):
    """Adds the layers that carry a recurrent state."""

    name = "Qwen3.5"
    layer_types = ("full_attention", LINEAR)
    tiny = TinyShape(
        config="Qwen3_5Config",
        processor="Qwen3VLProcessor",
        video_processor="Qwen3VLVideoProcessor",
        text=TEXT
        | {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "rope_parameters": ROPE | {"mrope_interleaved": True, "partial_rotary_factor": 0.5},
            "layer_types": [LINEAR, "full_attention"],
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": WIDTHS_ON_CPU[0],
            "linear_value_head_dim": WIDTHS_ON_CPU[0],
        },
        vision=VISION | VISION_WIDTHS | {"num_position_embeddings": (IMAGE_SIDE // 8) ** 2},
    )

    def check(self, config: Any, image_processor: Any) -> None:
        """Also raise DataError where value heads can't share the key heads evenly."""
        super().check(config, image_processor)
        values, keys = (
            getattr(config.text_config, f"linear_num_{kind}_heads") for kind in ("value", "key")
        )
        if min(values, keys) < 1 or values % keys:
            raise DataError(
                f"text_config.linear_num_value_heads={values} is not a multiple of "
                f"linear_num_key_heads={keys}"
            )

    def delta_nets(self, model: Any) -> list[nn.Module]:
        """Return the gated delta nets of the linear text layers."""
        layers = model.model.language_model.layers
        return [layer.linear_attn for layer in layers if hasattr(layer, "linear_attn")]

    def engine_options(self, config: Any, *, on_gpu: bool) -> dict[str, Any]:
        """Return the type of vLLM's recurrent states, and what its kernels for a CPU need.

        The states are float32 whatever the weights are, as in the learner. On a CPU the weights
        are bfloat16, the only type of the kernels. No prefix cache there: a state can be kept at a
        block's end only, so that a prompt longer than a block would take two steps, and a seeded
        request in two steps raises on a CPU ("CPU Generator does not use offset").
        """
        options: dict[str, Any] = {"mamba_ssm_cache_dtype": "float32"}
        if on_gpu:
            return options
        text = config.text_config
        key, value = int(text.linear_key_head_dim), int(text.linear_value_head_dim)
        if key != value or key not in WIDTHS_ON_CPU:
            raise DataError(
                f"linear_key_head_dim={key} and linear_value_head_dim={value} in text_config: on a "
                f"CPU vLLM has gated delta nets with both at {' or '.join(map(str, WIDTHS_ON_CPU))}"
                "; train on a GPU, or set generator.backend=transformers"
            )
        return options | {"dtype": "bfloat16", "enable_prefix_caching": False}
