"""Load image bytes from whatever a cell holds. Nothing is decoded here.

{"bytes": b"\\x89PNG..", "path": None}    the image struct of `datasets` parquet
b"\\x89PNG.."                             raw bytes
"images/7.png", {"path": "images/7.png"}, "file:///abs/7.png"    a path
"data:image/png;base64,iVBOR..", "iVBOR..", {"url": "data:.."}    base64
["1.png", "2.png"], '["1.png", "2.png"]'    several images, as a list or as the text of one

Paths are relative to the folder of the data file. If nothing is there, the parent folder and a
folder `images` in either are tried (data/train.json with images/7.png beside data/); an absolute
path from another machine falls back to its file name in the same places.
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

from sapo_vl.data.readers.tables import parse_literal
from sapo_vl.errors import DataError

MIN_BASE64 = 64
"""Characters. The smallest PNG takes 88, and few paths without a dot are this long."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_KEYS = ("bytes", "path", "url")
"""Keys of an image object; the first one that is set wins."""


def load_image(value: Any, folder: Path) -> bytes:
    """Return the encoded bytes of one image; paths are relative to `folder`.

    Raises:
        DataError: "missing image file: NAME", or why the value is not an image.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if value.get(key) is not None), value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, os.PathLike):
        return _from_file(folder / value)
    if isinstance(value, str) and value.strip():
        return _from_text(value.strip(), folder)
    raise DataError(f"no image in the record: {value!r:.80}")


def load_images(value: Any, folder: Path) -> tuple[bytes, ...]:
    """Return the images of a cell: none for an empty cell, one for a value, all of a list.

    Raises:
        DataError: as `load_image`.
    """
    return tuple(load_image(ref, folder) for ref in split_refs(value))


def split_refs(value: Any) -> list[Any]:
    """Return the image references of a cell as a list, not loaded."""
    value = parse_literal(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    refs = value if isinstance(value, list | tuple) else [value]
    return [ref for ref in refs if ref is not None]


def file_names(value: Any) -> list[str]:
    """Return the file names among a cell's image references, for reports and error messages."""
    paths = (ref.get("path") if isinstance(ref, dict) else ref for ref in split_refs(value))
    names = (path.name if isinstance(path, Path) else path for path in paths)
    return [n for n in names if isinstance(n, str) and 0 < len(n) < 1024 and _looks_like_path(n)]


def _from_text(text: str, folder: Path) -> bytes:
    if text.startswith("data:"):
        return _from_base64(text.partition(",")[2])
    if text.startswith(("http://", "https://")):
        raise DataError(f"an image is a link, download it first: {text:.200}")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if not _looks_like_path(text):
        return _from_base64(text)
    existing = (path for path in _candidates(text, folder) if os.path.isfile(path))
    return _from_file(next(existing, folder / text))


def _candidates(text: str, folder: Path) -> Iterator[Path]:
    """Yield the paths to try for a reference, in order (see the module's docstring)."""
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


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.translate(_STANDARD_ALPHABET), validate=False)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"an image is not valid base64: {error}") from error
