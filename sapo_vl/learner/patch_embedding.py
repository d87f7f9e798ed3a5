"""The patch embedding as the matrix product that it is.

Qwen3-VL cuts patches by a Conv3d whose stride is its kernel: a matrix product of flattened patches.
Some builds run that convolution ten times slower (pytorch #174051, transformers #45750), some do
not, so it is measured, forward and backward, and the faster form is taken. Parameters keep their
names, shapes and values. The two forms differ in the last bits: rank 0 chooses for all, and a run
keeps its first choice when it is resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapo_vl.system import distributed

PATCHES = 1024
"""Patches in the measurement: a picture of 512 x 512 pixels."""

REPEATS = 5
"""Each form's fastest of so many counts; the first call of both is left out."""


class PatchProduct(nn.Module):
    """The convolution `conv` as a product: [n, C, t, p, p] -> [n, D], with the same parameters."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.weight = conv.weight  # [D, C, t, p, p]
        self.bias = conv.bias  # [D]

    def forward(self, patches: Tensor) -> Tensor:
        """Return the embedded patches."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def use_faster(model: Any, device: torch.device, choice: Path | None) -> str:
    """Replace the convolution where the product is faster; return what was found, in words.

    `choice` is the file that keeps the decision of a run; none: measure each time.
    """
    embed = model.model.visual.patch_embed
    conv = embed.proj
    if not isinstance(conv, nn.Conv3d):
        return "patch embedding: no convolution"
    if choice is not None and choice.exists():
        form, figures = choice.read_text(encoding="utf-8").strip(), "as this run began"
    else:
        slow, fast = measure(conv, device)
        form = "product" if distributed.broadcast(float(fast < slow)) else "convolution"
        figures = (
            f"{1e3 * slow:.1f} ms by convolution, {1e3 * fast:.1f} by product, {PATCHES} patches"
        )
        distributed.barrier()
        if choice is not None and choice.parent.is_dir() and distributed.rank() == 0:
            choice.write_text(form + "\n", encoding="utf-8")
    distributed.barrier()
    if form == "product":
        embed.proj = PatchProduct(conv)
    return f"patch embedding by {form} ({figures})"


def measure(conv: nn.Conv3d, device: torch.device) -> tuple[float, float]:
    """Return the seconds of convolution and product, forward and backward, of a copy of `conv`."""
    # A twin, because the weight itself may be sharded (ZeRO-3) or on another device.
    kernel: Any = conv.kernel_size
    twin = nn.Conv3d(conv.in_channels, conv.out_channels, kernel, kernel, bias=True)
    twin = twin.to(device, conv.weight.dtype)
    shape = (PATCHES, conv.in_channels, *conv.kernel_size)
    patches = torch.zeros(shape, device=device, dtype=conv.weight.dtype)
    return _fastest(twin, patches), _fastest(PatchProduct(twin), patches)


def _fastest(module: Callable[[Tensor], Tensor], patches: Tensor) -> float:
    def once() -> float:
        _synchronize(patches.device)
        started = time.perf_counter()
        module(patches).sum().backward()
        _synchronize(patches.device)
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(REPEATS))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
