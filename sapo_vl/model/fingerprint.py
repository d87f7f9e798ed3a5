"""Fingerprints of a model folder, whatever it is called: of its weights, and of all the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sapo_vl.model.weight_files import is_weight_file

CHUNK_BYTES = 2**24

SETTINGS = (".json", ".jinja", ".txt", ".model")
"""Suffixes of files that a tokenizer, a processor or a config is read from."""


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


def model_fingerprint(folder: str | Path) -> str:
    """Return 16 hex digits of SHA-256 over a folder's config, tokenizer, processor and templates.

    Of weight files only names and sizes count, so that it takes no time. What a resumed run reads
    again from the folder it started from is covered.
    """
    root, digest = Path(folder), hashlib.sha256()
    for path in sorted(path for path in root.iterdir() if path.is_file()):
        if is_weight_file(path.name):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        elif path.suffix in SETTINGS:
            digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
