"""A sampler whose weights are not quite the learner's: rounded, or disturbed by noise.

none        the learner's weights
bfloat16    every weight rounded to bfloat16, as a sampler in half precision holds it
float8      rounded to float8 (e4m3) with one scale per tensor, as a quantised sampler does
noise0.05   every weight multiplied by 1 + 0.05 * N(0, 1), anew at each update
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from sapo_vl.errors import ConfigError
from sapo_vl.generator.base import Generator, Sampling
from sapo_vl.model.prompts import Prompt
from sapo_vl.schema import Completion

FLOAT8_LARGEST = 448.0
"""The largest finite number of e4m3."""


class Disturbed:
    """A Generator in front of another, which gets disturbed weights."""

    def __init__(self, inner: Generator, kind: str, seed: int) -> None:
        """`kind` is one of the module's names. Raises ConfigError for another."""
        self._inner = inner
        self._disturb = _kind(kind, torch.Generator().manual_seed(seed))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """See Generator."""
        return self._inner.generate(prompts, sampling, seeds)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Disturb the weights on their way."""
        self._inner.update_weights((name, self._disturb(tensor)) for name, tensor in weights)

    def sleep(self) -> None:
        """See Generator."""
        self._inner.sleep()

    def wake(self) -> None:
        """See Generator."""
        self._inner.wake()

    def close(self) -> None:
        """See Generator."""
        self._inner.close()


def _kind(kind: str, random: torch.Generator) -> Callable[[Tensor], Tensor]:
    if kind == "bfloat16":
        return lambda tensor: tensor.to(torch.bfloat16).to(tensor.dtype)
    if kind == "float8":
        return _float8
    if kind.startswith("noise"):
        size = float(kind.removeprefix("noise"))
        return lambda tensor: (
            tensor
            * (1 + size * torch.randn(tensor.shape, generator=random, dtype=torch.float32)).to(
                tensor.dtype
            )
        )
    raise ConfigError(f"mismatch {kind!r} is none of none, bfloat16, float8, noiseX")


def _float8(tensor: Tensor) -> Tensor:
    scale = tensor.abs().max().clamp(min=1e-12) / FLOAT8_LARGEST
    return (tensor / scale).to(torch.float8_e4m3fn).to(tensor.dtype) * scale
