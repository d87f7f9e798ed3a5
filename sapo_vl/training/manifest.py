"""A checkpoint's files with their SHA-256, which tell a whole checkpoint from a damaged one.

Ranks share the hashing; rank 0 writes `manifest.json` last, when every file is on the disk.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sapo_vl.runs.files import sync_to_disk, write_json
from sapo_vl.system import distributed

NAME = "manifest.json"

CHUNK_BYTES = 2**24


def write_manifest(folder: Path) -> None:
    """Hash every file of `folder`, flush it to the disk, list it; every rank must call it."""
    rank, ranks = distributed.rank(), distributed.world_size()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    own = []
    for path in files[rank::ranks]:
        sync_to_disk(path)
        name = path.relative_to(folder).as_posix()
        own.append((name, {"bytes": path.stat().st_size, "sha256": _sha256(path)}))
    listed = dict(sorted(distributed.all_gather(own)))
    if rank == 0:
        write_json(folder / NAME, {"ranks": ranks, "files": listed})
        sync_to_disk(folder, below=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return {"ranks": .., "files": {name: {"bytes": .., "sha256": ..}}}.

    Raises ValueError when it is missing or damaged.
    """
    try:
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        _ = int(manifest["ranks"]), [(e["bytes"], e["sha256"]) for e in manifest["files"].values()]
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{NAME} is damaged") from error
    return manifest


def damage(folder: Path, *, rank: int = 0, ranks: int = 1) -> str:
    """Return what is wrong with a checkpoint's files, in words; empty when it is whole.

    With several `ranks` each looks at its share of the files.
    """
    try:
        files = sorted(read_manifest(folder)["files"].items())
    except ValueError as error:
        return str(error)
    for name, entry in files[rank::ranks]:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{name} has {size} of {entry['bytes']} bytes"
        if _sha256(path) != entry["sha256"]:
            return f"the content of {name} has changed"
    return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
