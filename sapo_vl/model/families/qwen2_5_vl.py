"""Qwen2.5-VL: patches of 14 pixels, window attention in the vision tower, no deepstack.

Larger text models may use sliding windows (`use_sliding_window`), which `check` refuses; the
published ones switch them off.
"""

from __future__ import annotations

from sapo_vl.model.families.qwen_vl import QwenVL


class Qwen25VL(QwenVL):
    """Exactly the common part."""

    name = "Qwen2.5-VL"
