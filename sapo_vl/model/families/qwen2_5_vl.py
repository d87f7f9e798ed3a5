"""Qwen2.5-VL: patches of 14 pixels, window attention in the vision tower, no deepstack.

Larger text models may use sliding windows (`use_sliding_window`), which `check` refuses; the
published ones switch them off.
"""

from __future__ import annotations

from sapo_vl.model.families.qwen_vl import QwenVL
from sapo_vl.model.families.tiny_shape import ROPE, TEXT, VISION, VISION_WIDTHS, TinyShape


class Qwen25VL(QwenVL):
    """Exactly the common part."""

    name = "Qwen2.5-VL"
    tiny = TinyShape(
        config="Qwen2_5_VLConfig",
        processor="Qwen2_5_VLProcessor",
        video_processor="Qwen2VLVideoProcessor",
        text=TEXT | {"rope_parameters": ROPE, "bos_token_id": None},
        vision=VISION | VISION_WIDTHS | {"window_size": 32, "fullatt_block_indexes": [1]},
    )
