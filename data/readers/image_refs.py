"""Load image bytes from whatever a cell holds. Nothing is decoded here.

{"bytes": b"\\x89PNG..", "path": None}    the image struct of `datasets` parquet
b"\\x89PNG..", [137, 80, 78, ..]          raw bytes, also as numbers
"images/7.png", {"path": "images/7.png"}, "file:///abs/7.png"    a path
"data:image/png;base64,iVBOR..", "iVBOR..", {"url": "data:.."}, {"base64": ..}    base64
{"source": {"type": "base64", "data": ..}}, {"image": {"url": ..}}    an object in an object
["1.png", "2.png"], [["1.png"], ["2.png"]], '["1.png", "2.png"]'    several images

Paths are relative to the folder of the data file. If nothing is there, the parent folder and a
folder `images` in either are tried (data/train.json with images/7.png beside data/); an absolute
path from another machine falls back to its file name in the same places.

A data set's author names the files, its user publishes them: a path counts only where it leads,
links resolved, to a regular file below the source's folder (see `Place`).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from sapo_vl.data.readers.literals import is_missing, parse_literal
from sapo_vl.errors import DataError

MIN_BASE64 = 64
"""Characters. The smallest PNG takes 88, and few paths without a dot are this long."""

MAX_IMAGE_BYTES = 2**28
"""256 MiB, above the largest image that is decoded (images.MAX_DECODED_PIXELS) in any format."""

MAX_DEPTH = 4
"""Objects and lists around an image; `{"image": {"source": {"data": ..}}}` has three."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_KEYS = (
    *("bytes", "base64", "b64_json", "data", "path", "url", "uri", "src", "image", "image_url"),
    *("source", "image_path", "file", "file_name", "filename", "inline_data", "inlineData"),
    *("img", "picture", "content"),
)
"""Keys of an image object; the first one that is set wins."""
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LATIN_STARTS = ("\x89PNG", "\xff\xd8\xff")

_outside_allowed: ContextVar[bool] = ContextVar("outside_allowed", default=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the paths of a source are looked up, and the folder that they may not leave."""

    folder: Path  # of the data file: paths are relative to it
    root: Path  # of the source: every image lies below it, links resolved


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source that has fixed places for its images."""

    folder: Path  # the images' own folder, which the name may not leave
    name: str  # as the data set spells it, relative to the folder


@contextmanager
def outside_allowed() -> Iterator[None]:
    """Let paths lead out of the source's folder (`sapo-vl prepare --allow-outside`)."""
    token = _outside_allowed.set(True)
    try:
        yield
    finally:
        _outside_allowed.reset(token)


def load_image(value: Any, place: Place | None = None) -> bytes:
    """Return the encoded bytes of one image; without a `place` no path but a `SourceFile` is read.

    Raises:
        DataError: "missing image file: NAME", or why the value is not an image.
    """
    for _ in range(MAX_DEPTH):
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            break
        value = next((value[key] for key in _KEYS if not is_missing(value.get(key))), None)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bounded(bytes(value))
    if _is_bytes_in_numbers(value):
        return _bounded(bytes(value))
    if isinstance(value, SourceFile):
        return _from_file(value.folder / value.name, value.folder)
    if isinstance(value, str) and value.strip():
        return _bounded(_from_text(value.strip(), place))
    raise DataError(f"no image in the record: {value!r:.80}")


def load_images(value: Any, place: Place | None = None) -> tuple[bytes, ...]:
    """Return the images of a cell: none for an empty cell, one for a value, all of a list.

    Raises:
        DataError: as `load_image`.
    """
    return tuple(load_image(ref, place) for ref in split_refs(value))


def split_refs(value: Any) -> list[Any]:
    """Return the image references of a cell as a flat list, not loaded."""
    value = parse_literal(value)
    if is_missing(value):
        return []
    if not isinstance(value, list | tuple) or _is_bytes_in_numbers(value):
        return [value]
    nested = [
        split_refs(ref) if isinstance(ref, list | tuple) else [ref]
        for ref in value
        if not is_missing(ref)
    ]
    return [ref for refs in nested for ref in refs]


def file_names(value: Any) -> list[str]:
    """Return the file names among a cell's image references, for reports and error messages."""
    return [name for ref in split_refs(value) if (name := _file_name(ref))]


def _file_name(ref: Any) -> str:
    for _ in range(MAX_DEPTH):
        if isinstance(ref, dict):
            ref = next((ref[k] for k in _KEYS[4:] if isinstance(ref.get(k), str | dict)), None)
    name = Path(ref.name).name if isinstance(ref, SourceFile) else ref
    return name if isinstance(name, str) and 0 < len(name) < 1024 and _looks_like_path(name) else ""


def _is_bytes_in_numbers(value: Any) -> bool:
    """Whether a list is a file's bytes, as `to_json` writes them: numbers from 0 to 255."""
    if not isinstance(value, list | tuple) or len(value) < MIN_BASE64 // 2:
        return False
    return all(type(number) is int and 0 <= number < 256 for number in value)


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"an image of over {MAX_IMAGE_BYTES >> 20} MiB")
    return data


def _from_text(text: str, place: Place | None) -> bytes:
    if text.startswith("data:"):
        return _from_base64(text.partition(",")[2])
    if text.startswith(_LATIN_STARTS):
        return text.encode("latin-1", errors="replace")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if _LINK.match(text):
        raise DataError(f"an image is a link, download it first: {text:.200}")
    if not _looks_like_path(text):
        return _from_base64(text)
    if place is None:
        raise DataError(f"an image is a path in a source without image files: {text:.200}")
    existing = [path for path in _candidates(text, place.folder) if os.path.isfile(path)]
    inside = [path for path in existing if _is_inside(path, place.root)]
    return _from_file(next(iter(inside or existing), place.folder / text), place.root)


def _candidates(text: str, folder: Path) -> Iterator[Path]:
    """Yield the paths to try for a reference, in order (see the module's docstring)."""
    names = [text, PureWindowsPath(text).as_posix()]
    if Path(text).is_absolute() or PureWindowsPath(text).is_absolute():
        names.append(PureWindowsPath(text).name)
    for name in dict.fromkeys(names):
        for root in (folder, folder.parent):
            yield from (root / name, root / "images" / name)


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a path, links resolved, lies below the source's folder.

    `images` beside the folder counts as part of it, and so do the blobs of a hub cache, which its
    snapshots are links to.
    """
    if _outside_allowed.get():
        return True
    real = path.resolve() if path.is_symlink() else _resolved(path.parent) / path.name
    top = _resolved(root)
    blobs = [top.parents[n].parent / "blobs" for n in range(min(3, len(top.parents) - 1))
             if top.parents[n].name == "snapshots"]  # fmt: skip
    return any(real.is_relative_to(parent) for parent in (top, top.parent / "images", *blobs))


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _from_file(file: Path, root: Path) -> bytes:
    if not os.path.isfile(file):  # Path.is_file raises for a name that is too long
        raise DataError(f"missing image file: {file!s:.300}")
    if not _is_inside(file, root):
        raise DataError(
            f"an image lies outside the source's folder {root}, or is a link out of it: "
            f"{file!s:.300}; copy it there, give the folder above as --source, or --allow-outside"
        )
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"an image is no regular file: {file!s:.300}")
            return _bounded(opened.read(MAX_IMAGE_BYTES + 1))
    except OSError as error:
        raise DataError(f"an image file cannot be read: {file}: {error.strerror}") from error


def _looks_like_path(text: str) -> bool:
    if text.startswith(("data:", *_LATIN_STARTS)):
        return False
    return len(text) < MIN_BASE64 or not _BASE64.fullmatch(text)


def _from_base64(text: str) -> bytes:
    compact = "".join(text.translate(_STANDARD_ALPHABET).split()).rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=False)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"an image is not valid base64: {error}") from error
