"""Prompts and responses of a packed row as batches of similar length, for kernels on a CPU.

Legend: S segments of a batch, Q their padded length, N their tokens without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_FILL = 0.8
"""Segments share a call when the shortest has at least this share of the longest's tokens."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of similar length as one batch; padding repeats a valid index."""

    index_SQ: Tensor  # each token's index in the row
    valid_SQ: Tensor | None  # False on padding; None when there is none
    tokens_N: Tensor  # index_SQ without the padding

    @staticmethod
    def of(spans: Sequence[tuple[int, int]]) -> Segments:
        """Return the batch of (start, length) spans; lengths are at least 1."""
        starts = torch.tensor([start for start, _ in spans])
        lengths = torch.tensor([length for _, length in spans])
        columns = torch.arange(int(lengths.max()))
        index = starts[:, None] + torch.minimum(columns[None, :], lengths[:, None] - 1)
        valid = columns[None, :] < lengths[:, None]
        if bool(valid.all()):
            return Segments(index, None, index.flatten())
        return Segments(index, valid, index[valid])

    def to(self, device: torch.device) -> Segments:
        """Return the same batch on a device."""
        valid = None if self.valid_SQ is None else self.valid_SQ.to(device)
        return Segments(self.index_SQ.to(device), valid, self.tokens_N.to(device))


def group_by_length(spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group (start, length) spans of similar length, longest first."""
    parts: list[list[tuple[int, int]]] = []
    for span in sorted(spans, key=lambda s: (-s[1], s[0])):
        if not parts or span[1] < MIN_FILL * parts[-1][0][1]:
            parts.append([])
        parts[-1].append(span)
    return parts
