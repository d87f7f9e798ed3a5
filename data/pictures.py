"""The file bytes of a picture, whatever a row has in its place. Nothing is decoded here.

{"bytes": b"\\x89PNG..", "path": None}    how parquet of `datasets` has it
b"\\x89PNG.."                             plain bytes
"images/7.png", "file:///abs/7.png"      a path, relative to the folder of the file of records
"data:image/png;base64,iVBOR..", "iVBOR.."    base64
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sapo_vl.errors import DataError

MIN_BASE64 = 64
"""Characters; the smallest PNG has 88, and few paths without a dot are as long."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def load(value: Any, folder: Path) -> bytes:
    """Return the file bytes of one picture.

    Raises:
        DataError: "missing image file: NAME", or what else is wrong with the value.
    """
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        data = value.get("bytes")
        value = data if data is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, os.PathLike):
        return _from_file(folder / value)
    if isinstance(value, str) and value.strip():
        return _from_text(value.strip(), folder)
    raise DataError(f"no image in the record: {value!r:.80}")


def load_all(value: Any, folder: Path) -> tuple[bytes, ...]:
    """Return the pictures of a cell: none for nothing, one for a single value, all of a list.

    Raises:
        DataError: as `load`.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(load(one, folder) for one in values)


def names(value: Any) -> list[str]:
    """Return the file names among the values of a cell, for the report and for a reader."""
    values = value if isinstance(value, list | tuple) else [value]
    paths = (v.get("path") if isinstance(v, dict) else v for v in values)
    paths = (p.name if isinstance(p, Path) else p for p in paths)
    return [p for p in paths if isinstance(p, str) and 0 < len(p) < 1024 and _looks_like_path(p)]


def _from_text(text: str, folder: Path) -> bytes:
    if text.startswith("data:"):
        return _decoded(text.partition(",")[2])
    if text.startswith(("http://", "https://")):
        raise DataError(f"an image is a link, download it first: {text:.200}")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if not _looks_like_path(text):
        return _decoded(text)
    return _from_file(folder / text)


def _from_file(file: Path) -> bytes:
    if not file.is_file():
        raise DataError(f"missing image file: {file}")
    return file.read_bytes()


def _looks_like_path(text: str) -> bool:
    if text.startswith("data:"):
        return False
    return len(text) < MIN_BASE64 or not _BASE64.fullmatch(text)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"an image is no base64: {error}") from error
