"""The file bytes of a picture, whatever a row has in its place. Nothing is decoded here.

{"bytes": b"\\x89PNG..", "path": None}    how parquet of `datasets` has it
b"\\x89PNG.."                             plain bytes
"images/7.png", {"path": "images/7.png"}, "file:///abs/7.png"    a path
"data:image/png;base64,iVBOR..", "iVBOR..", {"url": "data:.."}    base64
["1.png", "2.png"], '["1.png", "2.png"]'    several of them, also written in one cell

A path is relative to the folder of the file of records. Where nothing is there, the folder above
and a folder `images` in either are tried (data/train.json with images/7.png beside data/), and for
an absolute path its file name alone: it was another machine's.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from sapo_vl.data.readers.tables import written
from sapo_vl.errors import DataError

MIN_BASE64 = 64
"""Characters; the smallest PNG has 88, and few paths without a dot are as long."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_STANDARD = str.maketrans("-_", "+/")
_INSIDE = ("bytes", "path", "url")
"""Keys under which an object has its picture, the first that is not empty."""


def load(value: Any, folder: Path) -> bytes:
    """Return the file bytes of one picture.

    Raises:
        DataError: "missing image file: NAME", or what else is wrong with the value.
    """
    if isinstance(value, dict):
        inside = (value[key] for key in _INSIDE if value.get(key) is not None)
        value = next(inside, value)
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
    return tuple(load(one, folder) for one in listed(value))


def listed(value: Any) -> list[Any]:
    """Return the pictures of a cell, still as they are written: none, one or several."""
    value = written(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if one is not None]


def names(value: Any) -> list[str]:
    """Return the file names among the values of a cell, for the report and for a reader."""
    paths = (v.get("path") if isinstance(v, dict) else v for v in listed(value))
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
    found = (place for place in _places(text, folder) if os.path.isfile(place))
    return _from_file(next(found, folder / text))


def _places(text: str, folder: Path) -> Iterator[Path]:
    names = [text, PureWindowsPath(text).as_posix()]
    if Path(text).is_absolute():
        names.append(Path(text).name)
    for name in dict.fromkeys(names):
        for root in (folder, folder.parent):
            yield from (root / name, root / "images" / name)


def _from_file(file: Path) -> bytes:
    if not os.path.isfile(file):  # Path.is_file raises for a name that is too long
        raise DataError(f"missing image file: {file!s:.300}")
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"an image file cannot be read: {file}: {error.strerror}") from error


def _looks_like_path(text: str) -> bool:
    if text.startswith("data:"):
        return False
    return len(text) < MIN_BASE64 or not _BASE64.fullmatch(text)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.translate(_STANDARD), validate=False)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"an image is no base64: {error}") from error
