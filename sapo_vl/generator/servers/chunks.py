"""Weights as a sequence of chunks: the form in which they travel to a server's workers.

A chunk is one buffer of bytes that holds whole tensors, and a description of them that fits into
JSON; sender and receiver lay the buffer out by the same rule. No tensor is split, because vLLM
loads whole ones: a chunk has up to CHUNK_BYTES, or the size of one larger tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BACKEND = "sapo"
"""Our transfer engine's name in vLLM's --weight-transfer-config."""

CHUNK_BYTES = 256 << 20
"""Bytes of a chunk, unless one tensor alone is larger. What a transfer holds in memory besides the
weights themselves is two chunks: the sender's and, until its layers are complete, the worker's."""

ALIGNMENT = 64
"""Each tensor starts at a multiple of so many bytes; a view of bytes as numbers needs at most 8."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's place in a chunk."""

    name: str  # Hugging Face's
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # its first byte
    stop: int  # the byte after its last

    def view(self, buffer: Tensor) -> Tensor:
        """Return the tensor in a buffer of bytes, without a copy."""
        return buffer[self.start : self.stop].view(self.dtype).reshape(self.shape)


def place(name: str, dtype: torch.dtype, shape: tuple[int, ...], end: int) -> Entry:
    """Return the entry of a tensor that follows one whose last byte is before `end`."""
    start = -(-end // ALIGNMENT) * ALIGNMENT
    return Entry(name, dtype, shape, start, start + torch.Size(shape).numel() * dtype.itemsize)


@dataclass(slots=True)
class Chunk:
    """Tensors in one buffer."""

    buffer: Tensor  # bytes, at least as many as the entries take
    entries: list[Entry] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Return the bytes in use."""
        return self.entries[-1].stop if self.entries else 0

    def description(self) -> dict[str, Any]:
        """Return names, types and shapes in order, as JSON's types."""
        return {
            "names": [entry.name for entry in self.entries],
            "dtypes": [str(entry.dtype).removeprefix("torch.") for entry in self.entries],
            "shapes": [list(entry.shape) for entry in self.entries],
        }


def layout(names: list[str], dtypes: list[str], shapes: list[list[int]]) -> list[Entry]:
    """Return the entries of a chunk by its description.

    Raises ValueError for a type that torch doesn't know, or for lists of different lengths.
    """
    entries: list[Entry] = []
    for name, dtype_name, shape in zip(names, dtypes, shapes, strict=True):
        dtype = getattr(torch, dtype_name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name}: {dtype_name!r} is no type of torch's")
        entries.append(place(name, dtype, tuple(shape), entries[-1].stop if entries else 0))
    return entries


def pack(
    weights: Iterable[tuple[str, Tensor]],
    allocate: Callable[[int], Tensor],
    limit: int = CHUNK_BYTES,
) -> Iterator[Chunk]:
    """Copy tensors into chunks, in order, one chunk at a time.

    Each tensor is copied before the next one is asked for, because under ZeRO-3 a gathered one is
    valid no longer.

    Args:
        weights: (name, whole tensor), on any device.
        allocate: returns a buffer of so many bytes.
        limit: bytes of a chunk, unless one tensor alone is larger.
    """
    chunk: Chunk | None = None
    for name, tensor in weights:
        end = chunk.size if chunk is not None else 0
        entry = place(name, tensor.dtype, tuple(tensor.shape), end)
        if chunk is not None and entry.stop > len(chunk.buffer):
            yield chunk
            chunk = None
        if chunk is None:
            entry = place(name, tensor.dtype, tuple(tensor.shape), 0)
            chunk = Chunk(allocate(max(limit, entry.stop)))
        entry.view(chunk.buffer).copy_(tensor)
        chunk.entries.append(entry)
    if chunk is not None:
        yield chunk
