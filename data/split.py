"""Which side of the split a record falls on: a pure function of its content.

The same picture always lands on the same side, whatever its id, order, seed or data set size, so
nothing that is tested was trained on.
"""

from __future__ import annotations

import hashlib


def side(content: bytes, holdout: float) -> str:
    """Return "test" for a share `holdout` (0 to 1) of all contents and "train" for the others."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return "test" if int.from_bytes(digest) < holdout * 2**64 else "train"
