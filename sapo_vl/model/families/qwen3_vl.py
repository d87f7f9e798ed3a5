"""Qwen3-VL, dense and mixture of experts: patches of 16 pixels, deepstack features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sapo_vl.model.families.qwen_vl import QwenVL

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class Qwen3VL(QwenVL):
    """Adds the experts' layout and the deepstack features to the common part."""

    name = "Qwen3-VL"

    def to_checkpoint_layout(self, name: str, tensor: Tensor) -> Tensor:
        """Transpose experts: [E, out, in] in transformers' modules, [E, in, out] in checkpoints."""
        return tensor.transpose(1, 2).contiguous() if name.endswith(EXPERTS) else tensor

    def sum_features(self, features: Any) -> Tensor:
        """Return the sum of pooled and deepstack features (a list of pictures per level)."""
        parts = [*features.pooler_output]
        for level in features.deepstack_features:
            parts.extend(level)
        return torch.stack([part.float().sum() for part in parts]).sum()
