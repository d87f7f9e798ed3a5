"""Atomic file writes, JSON files, and a clear error for a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sapo_vl.errors import SetupError

MIN_FREE_BYTES = 2**20
"""Below this many free bytes, treat a write error without errno as ENOSPC."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    Readers see the old file or the new one, never a part; an old folder is replaced whole. Parent
    folders are created. An exception deletes the temporary file or folder; leftovers of a killed
    process are deleted first.
    The temporary name does not keep the suffix: pass the format to writers that infer it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
        if partial.is_dir() and path.is_dir():  # a folder replaces an empty one only
            old = path.with_name(f".{path.name}.old")
            _remove(old)
            path.rename(old)
            partial.rename(path)
            _remove(old)
        else:
            partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def sync_to_disk(path: Path, *, below: bool = False) -> None:
    """Flush a file, or a folder's list of names, from the kernel's cache to the disk.

    Without it a rename can outlive a power failure that its file's content does not. With `below`,
    flush all that is in a folder first.
    """
    entries = [path, *path.rglob("*")] if below else [path]
    for entry in reversed(entries):
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; lone surrogates are written as backslash escapes."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, without escaping non-ASCII characters."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the parsed JSON file, or None if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


@contextmanager
def user_path(key: str, path: Path) -> Iterator[None]:
    """Turn an OSError below into a SetupError that names the user's option and path.

    For places that the user chose, where it can't be our mistake: an unwritable folder, a name that
    is too long. A full disk stays what it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename not in (None, str(path)) else ""
        raise SetupError(f"{key}={path} can't be used: {error.strerror}{where}") from error


@contextmanager
def disk_full_guard(what: str, root: Path) -> Iterator[None]:
    """Turn a disk-full error of a write below `root` into a SetupError that names `what`.

    torch.save reports a full disk as RuntimeError and safetensors as SafetensorError, both without
    errno; for these the free space of `root` decides.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else:
            full = shutil.disk_usage(root).free < MIN_FREE_BYTES
        if not full:
            raise
        raise SetupError(
            f"no space left for {what} in {root}: free some space and continue with --resume; "
            "earlier checkpoints are intact"
        ) from error
