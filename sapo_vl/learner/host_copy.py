"""Tensors' memory moved to the host and back, in place.

A tensor's storage is emptied after a copy of its bytes and filled again later, so that every view
of it, DeepSpeed's flat buffers and their parts among them, is whole again without being touched.
DeepSpeed's own `offload_states` replaces tensors instead, and takes no AdamW but its fused one
under ZeRO-3.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PIECE, SMALL = 2**28, 2**20
"""Bytes of the largest host buffer, and of a rest that isn't split further. PyTorch rounds pinned
memory up to a power of two, so that a matrix of 96 MiB in one buffer would take 128."""


class HostCopy:
    """The bytes of some tensors while their own memory is freed."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        """Copy the storages of those `tensors` that are on `device`, and empty them.

        Don't print an emptied tensor: PyTorch reads memory that is not there.
        """
        self._device = device
        self._pieces: list[tuple[torch.UntypedStorage, list[Tensor]]] = []
        seen = set[int]()
        for tensor in tensors:
            storage = tensor.untyped_storage()
            movable = tensor.device == device and storage.resizable()  # not mapped from a file
            if not movable or not storage.nbytes() or storage.data_ptr() in seen:
                continue
            seen.add(storage.data_ptr())
            self._pieces.append((storage, host_copies(_bytes(storage, device))))
        _wait(device)
        self.nbytes = sum(storage.nbytes() for storage, _ in self._pieces)
        self.release()

    def release(self) -> None:
        """Empty the storages, whose bytes are those of the copy, again after `restore`."""
        for storage, _ in self._pieces:
            storage.resize_(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # for the sampler, which allocates outside of the cache

    def restore(self, *, keep: bool = False) -> None:
        """Allocate the storages again and copy the bytes back.

        With `keep` the copy stays, for tensors that never change: `release` then copies nothing.
        """
        for storage, copies in self._pieces:
            storage.resize_(sum(len(copy) for copy in copies))
            for piece, copy in zip(pieces(_bytes(storage, storage.device)), copies, strict=True):
                piece.copy_(copy, non_blocking=True)
        _wait(self._device)
        if not keep:
            self._pieces = []


def host_copies(source: Tensor) -> list[Tensor]:
    """Return copies of the pieces of `source`, bytes; from a GPU they may not be filled yet."""
    pin = source.is_cuda
    return [
        torch.empty_like(piece, device="cpu", pin_memory=pin).copy_(piece, non_blocking=pin)
        for piece in pieces(source)
    ]


def pieces(source: Tensor) -> tuple[Tensor, ...]:
    """Return views of bytes, each as large as a host buffer."""
    return source.split(_sizes(source.numel()))


def _sizes(nbytes: int) -> list[int]:
    """Return the sizes of the host buffers of `nbytes`: powers of two, and a small rest."""
    sizes = []
    while nbytes > SMALL:
        sizes.append(min(PIECE, 1 << (nbytes.bit_length() - 1)))
        nbytes -= sizes[-1]
    return sizes + [nbytes] * (nbytes > 0)


def _bytes(storage: torch.UntypedStorage, device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
