"""Qwen2-VL: patches of 14 pixels, a vision tower of full attention, no deepstack.

The tower's config has other names than later ones: `embed_dim` and `mlp_ratio` are its own widths,
`hidden_size` that of the text model. Sliding windows are refused, see qwen_vl.py.
"""

from __future__ import annotations

from sapo_vl.model.families.qwen_vl import QwenVL
from sapo_vl.model.families.tiny_shape import ROPE, TEXT, VISION, TinyShape


class Qwen2VL(QwenVL):
    """Exactly the common part."""

    name = "Qwen2-VL"
    tiny = TinyShape(
        config="Qwen2VLConfig",
        processor="Qwen2VLProcessor",
        video_processor="Qwen2VLVideoProcessor",
        text=TEXT | {"rope_parameters": ROPE, "bos_token_id": None},
        vision=VISION | {"embed_dim": 96, "mlp_ratio": 2, "hidden_size": 128},
    )
