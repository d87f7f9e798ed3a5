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

PIECE = 2**28
"""Bytes of one host buffer: PyTorch rounds pinned memory up to a power of two."""


class HostCopy:
    """The bytes of some tensors while their own memory is freed."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        """Copy the storages of those `tensors` that are on `device`, and empty them.

        Don't print an emptied tensor: PyTorch reads memory that is not there.
        """
        pin = device.type == "cuda"
        self._pieces: list[tuple[torch.UntypedStorage, list[Tensor]]] = []
        seen = set[int]()
        for tensor in tensors:
            storage = tensor.untyped_storage()
            movable = tensor.device == device and storage.resizable()  # not mapped from a file
            if not movable or not storage.nbytes() or storage.data_ptr() in seen:
                continue
            seen.add(storage.data_ptr())
            pieces = [
                torch.empty_like(piece, device="cpu", pin_memory=pin).copy_(piece, non_blocking=pin)
                for piece in _bytes(storage, device).split(PIECE)
            ]
            self._pieces.append((storage, pieces))
        _wait(device)
        self.nbytes = sum(storage.nbytes() for storage, _ in self._pieces)
        for storage, _ in self._pieces:
            storage.resize_(0)
        if pin:
            torch.cuda.empty_cache()  # for the sampler, which allocates outside of the cache

    def restore(self) -> None:
        """Allocate the storages again and copy the bytes back."""
        for storage, pieces in self._pieces:
            storage.resize_(sum(len(piece) for piece in pieces))
            start = 0
            whole = _bytes(storage, storage.device)
            for piece in pieces:
                whole[start : start + len(piece)].copy_(piece, non_blocking=True)
                start += len(piece)
        _wait(*{storage.device for storage, _ in self._pieces})
        self._pieces = []


def _bytes(storage: torch.UntypedStorage, device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)


def _wait(*devices: torch.device) -> None:
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
