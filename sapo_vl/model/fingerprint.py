"""A fingerprint of a model's weights: which model wrote a result, whatever its folder is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 2**24


def weights_fingerprint(folder: str | Path) -> str:
    """Return 16 hex digits of SHA-256 over the names and bytes of a folder's weight files.

    Reads every `*.safetensors` and `*.bin` file directly in `folder` (1 to 2 GB a second). Copies
    of the same files have the same fingerprint. A hub id, or a folder without weight files, has an
    empty one.
    """
    root = Path(folder)
    files = [path for pattern in ("*.safetensors", "*.bin") for path in root.glob(pattern)]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:16] if files else ""
