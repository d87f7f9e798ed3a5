"""The patch embedding as a convolution or a matrix product, whichever is faster on this machine.

Qwen's towers embed patches by a Conv3d whose stride is its kernel, which equals a matrix product of
flattened patches. Some builds run that convolution ten times slower (pytorch #174051, transformers
#45750) and some do not, so both forms are timed, forward and backward. Parameters keep their names,
shapes and values. The results differ in the last bits, so rank 0 decides for all ranks, and a
resumed run keeps its first decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapo_vl.model.families import family_of
from sapo_vl.system import distributed

PATCHES = 1024
"""Patches per timed call: one picture of 512 x 512 pixels."""

REPEATS = 5
"""Timed calls of each form, after one warm-up call; the fastest counts."""


class PatchProduct(nn.Module):
    """The matrix product that equals `conv`: [n, C, t, p, p] -> [n, D]; shares its parameters."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.weight = conv.weight  # [D, C, t, p, p]
        self.bias = conv.bias  # [D], or None (Qwen2.5-VL)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the embedded patches."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def use_faster(model: Any, device: torch.device, choice: Path | None) -> str:
    """Replace the convolution by the product if that is faster; return a line for the log.

    `choice` is the file that keeps the run's decision; None times the two forms every time.
    """
    embed: Any = family_of(model.config.model_type).patch_embedding(model)
    conv = embed.proj
    if not isinstance(conv, nn.Conv3d):
        return "patch embedding: no convolution"
    if choice is not None and choice.exists():
        form, reason = choice.read_text(encoding="utf-8").strip(), "as when this run started"
    else:
        slow, fast = measure(conv, device)
        form = "product" if distributed.broadcast(float(fast < slow)) else "convolution"
        reason = (
            f"{1e3 * slow:.1f} ms by convolution, {1e3 * fast:.1f} by product, {PATCHES} patches"
        )
        distributed.barrier()
        if choice is not None and choice.parent.is_dir() and distributed.rank() == 0:
            choice.write_text(form + "\n", encoding="utf-8")
    distributed.barrier()
    if form == "product":
        embed.proj = PatchProduct(conv)
    return f"patch embedding by {form} ({reason})"


def measure(conv: nn.Conv3d, device: torch.device) -> tuple[float, float]:
    """Return the seconds of (convolution, product), forward and backward."""
    # On a copy, because the weight may be sharded (ZeRO-3) or on another device.
    kernel: Any = conv.kernel_size
    has_bias = conv.bias is not None
    twin = nn.Conv3d(conv.in_channels, conv.out_channels, kernel, kernel, bias=has_bias)
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
