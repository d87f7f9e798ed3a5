"""Memory that a learner shares with the servers of its machine.

It is anonymous (memfd), named by its owner's process: /proc/PID/fd/N. So it needs no room on
/dev/shm, which is 64 MB in many containers, and it is gone when its owner closes it or dies.
Processes of the same user that see each other's ids can open it; `digest` finds out which do.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from types import TracebackType

import torch
from torch import Tensor


class SharedBuffer:
    """A buffer of bytes that other processes open by `path`, while it exists."""

    def __init__(self, size: int) -> None:
        """Make a buffer of `size` bytes, all zero; the system provides pages as they are used."""
        self._file = os.memfd_create("sapo_vl-weights")
        os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size)
        self.tensor = torch.frombuffer(self._map, dtype=torch.uint8)
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """Give the memory back; what others have mapped lasts until they unmap it."""
        os.close(self._file)
        del self.tensor, self._map  # unmapped with the last view of the tensor

    def __enter__(self) -> SharedBuffer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_buffer(path: str, size: int) -> Tensor:
    """Return the first `size` bytes of another process's buffer, read where they are.

    The tensor keeps them, even when the owner has closed its buffer. Raises OSError when the path
    can't be opened, ValueError when the buffer is shorter.
    """
    with open(path, "rb") as file:
        view = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)  # torch wants it writable
    return torch.frombuffer(view, dtype=torch.uint8)


def digest(path: str) -> str:
    """Return the SHA-256 of a file's content; nothing where it can't be read.

    A process that returns the right one for a file of random bytes sees the same file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
