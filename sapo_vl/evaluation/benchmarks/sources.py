"""Reading a benchmark's own files. Every mistake is one line that says what to do about it."""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

_GZIP = b"\x1f\x8b"


def find(source: Path, name: str, files: Sequence[str], hub: str = "") -> Path:
    """Return the folder (`source/name`, or `source`) that holds one of `files` (patterns).

    Raises DataError with the files that are looked for and where they can be had.
    """
    for folder in (source / name, source):
        if any(next(folder.glob(pattern), None) for pattern in files):
            return folder
    where = f"; `hf download {hub} --repo-type dataset --local-dir DIR` fetches it" if hub else ""
    raise DataError(
        f"{name}: --source {source} has none of {', '.join(files)} (nor has {source / name}){where}"
    )


def read_json(path: Path) -> Any:
    """Return a JSON file's content. Raises DataError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as JSON: {error}") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("FILE:LINE", object) for the lines of a JSON lines file that are not blank.

    What gzip packed is known by its first bytes. Raises DataError naming the file and the line.
    """
    try:
        with path.open("rb") as start:
            opener = gzip.open if start.read(2) == _GZIP else open
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a row is a JSON object, not a {type(record).__name__}")
    return record


def read_parquet(folder: Path, columns: Sequence[str], pattern: str = "*") -> Iterator[dict]:
    """Yield the rows of a hub data set's parquet files in order of their names.

    Raises DataError naming the first file that lacks one of `columns`.
    """
    import pyarrow.parquet as pq

    for path in sorted(folder.glob(f"**/{pattern}.parquet")):
        table = pq.ParquetFile(path)
        missing = [name for name in columns if name not in table.schema_arrow.names]
        if missing:
            raise DataError(f"{path}: the column {missing[0]!r} is missing")
        for batch in table.iter_batches(batch_size=32):
            yield from batch.to_pylist()


def picture(folder: Path, name: str, record: str) -> bytes:
    """Return an image file's bytes. Raises DataError naming record and file when it is missing."""
    path = folder / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{record}: the image {path} can't be read ({error.strerror})") from error


def embedded(value: Any, record: str) -> bytes:
    """Return the bytes of a hub image struct {bytes, path}."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise DataError(f"{record}: the image column holds no bytes")
    return data


def place(text: str, marks: re.Pattern[str], images: dict[str, bytes]) -> tuple[str, tuple]:
    """Put IMAGE_MARKs where `marks` (group 1: the image's number) name images.

    Images that the text does not name come first. An image named twice is shown twice.
    """
    shown: list[bytes] = []
    named = {match[1] for match in marks.finditer(text)}
    first = [data for number, data in images.items() if number not in named]

    def put(match: re.Match[str]) -> str:
        if match[1] not in images:
            return match[0]
        shown.append(images[match[1]])
        return IMAGE_MARK

    placed = marks.sub(put, text.replace(IMAGE_MARK, "image"))
    return IMAGE_MARK * len(first) + placed, (*first, *shown)


def literal_list(value: Any, record: str) -> list[str]:
    """Return a list that is stored as its Python or JSON text, or as a list."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value) if value.strip() else []
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{record}: options {value[:60]!r} is no list") from error
    if not isinstance(value, list | tuple):
        raise DataError(f"{record}: options is a {type(value).__name__}, not a list")
    return [str(item) for item in value]
