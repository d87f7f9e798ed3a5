"""Rotary frequencies in float32, whatever the model's type and however it was loaded."""

from __future__ import annotations

from typing import Any

import torch


def restore_frequencies(model: Any) -> None:
    """Make every rotary embedding's frequencies anew, in float32.

    transformers computes them when a module is made. Inside zero.Init (ZeRO-3) DeepSpeed casts what
    is made to the model's type: in bfloat16 a frequency is off by up to 0.6 %, which turns the
    phase at a distance of 1,000 tokens by up to 0.9 rad, and the sampler keeps float32.
    Call it outside zero.Init.
    """
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            exact = type(module)(module.config)
            for name, buffer in exact.named_buffers(recurse=False):
                device = getattr(module, name).device
                setattr(module, name, torch.nn.Buffer(buffer.to(device), persistent=False))
