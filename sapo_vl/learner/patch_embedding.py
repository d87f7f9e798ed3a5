"""The vision tower's patch embedding as a matrix product instead of a convolution.

Qwen's towers embed patches by a Conv3d whose stride is its kernel, which equals a matrix product of
flattened patches. Some builds run that convolution ten times slower (pytorch #174051, transformers
#45750). The two differ in the last bits, so the form is never chosen by timing them: it is always
the product, and a seed gives the same model on every start. Parameters keep names, shapes, values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sapo_vl.model.families import family_of


class PatchProduct(nn.Module):
    """The matrix product that equals `conv`: [n, C, t, p, p] -> [n, D]; shares its parameters."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.weight = conv.weight  # [D, C, t, p, p]
        self.bias = conv.bias  # [D], or None (Qwen2.5-VL)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the embedded patches."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def use_product(model: Any) -> None:
    """Replace the convolution of a transformers model, if it has one, by the product."""
    embed: Any = family_of(model.config.model_type).patch_embedding(model)
    if isinstance(embed.proj, nn.Conv3d):
        embed.proj = PatchProduct(embed.proj)
