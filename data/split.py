"""The split of a record as a pure function of its content.

The same image always gets the same split, whatever the id, order, seed or size of the data set, so
that no test image is ever trained on.
"""

from __future__ import annotations

import hashlib


def split_of(content: bytes, holdout: float) -> str:
    """Return "test" for a share `holdout` (0 to 1) of all contents, else "train"."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return "test" if int.from_bytes(digest) < holdout * 2**64 else "train"
