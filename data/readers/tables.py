"""Read parquet, JSON, JSONL, CSV and TSV files as rows (dicts).

    for row in read_rows(Path("data/testmini.json")): ...

Accepted JSON layouts: a list of records, an object of records keyed by id, an object that wraps one
list of records, and an object of equally long columns. Parquet, JSONL and CSV are streamed; a JSON
file is loaded whole.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError

BATCH_ROWS = 16
"""Parquet rows decoded at a time; small, because each row carries images."""

BUFFER_BYTES = 2**20
"""Read-ahead per parquet column."""

Row = dict[str, Any]

_SHARD = re.compile(r"(?P<series>.*-)(?P<number>\d{5})-of-(?P<total>\d{5})")
_DELIMITERS = ",;\t"
_GZIP_MAGIC = b"\x1f\x8b"


def read_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of one file in order; the suffix selects the reader.

    Raises:
        DataError: the file is unreadable, empty or malformed; names it and the line or row.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file}: unsupported file type; supported: {', '.join(READERS)}")
    try:
        if not file.stat().st_size:
            raise DataError(f"{file}: the file is empty; download it again or remove it")
        yield from reader(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8; convert it: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def record_files(source: Path) -> list[Path]:
    """Return a folder's data files, sorted; only the first suffix of `READERS` that occurs counts.

    Hidden files and folders are skipped. A `source` that is a file is returned as it is.

    Raises:
        DataError: the folder has no data files, or a shard is missing from a series.
    """
    if source.is_file():
        return [source]
    candidates = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in READERS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    for suffix in READERS:
        files = [path for path in candidates if path.suffix.lower() == suffix]
        if files:
            return require_all_shards(files)
    raise DataError(f"source: {source} contains no data files ({', '.join(READERS)})")


def require_all_shards(files: list[Path]) -> list[Path]:
    """Return `files` after checking each NAME-00000-of-00003 series for completeness.

    Raises:
        DataError: names the first missing shard.
    """
    shards = [m for path in files if (m := _SHARD.fullmatch(str(path.with_suffix(""))))]
    by_series = itemgetter("series", "total")
    for (series, total), present in groupby(sorted(shards, key=by_series), by_series):
        missing = set(range(int(total))) - {int(shard["number"]) for shard in present}
        if missing:
            first = f"{series}{min(missing):05d}-of-{total}{files[0].suffix}"
            raise DataError(f"{first}: missing ({len(missing)} of {int(total)} shards are missing)")
    return files


def parse_literal(value: Any) -> Any:
    """Parse a cell that holds a list, object or tuple as JSON or Python text.

    "['a', 'b']" and '["a", "b"]' both give ["a", "b"]; any other value is returned unchanged.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{", "("):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return value


def parse_list(value: Any) -> list[Any]:
    """Return a cell as a list: a list, a tuple, or the JSON or Python text of one; [] when empty.

    Raises:
        DataError: the cell holds anything else.
    """
    parsed = parse_literal(value)
    if parsed is None or (isinstance(parsed, str) and not parsed.strip()):
        return []
    if not isinstance(parsed, list | tuple):
        raise DataError(f"expected a list, got {value!r:.100}")
    return list(parsed)


def read_parquet(file: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a parquet file in order, `BATCH_ROWS` decoded at a time.

    Raises:
        DataError: the file is damaged, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Without a buffer pyarrow loads a whole row group, which may be the whole file.
        with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
            missing = [name for name in columns if name not in table.schema_arrow.names]
            if missing:
                raise DataError(f"{file}: the column {missing[0]!r} is missing")
            for batch in table.iter_batches(BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    yield row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: damaged parquet file, at row {number}: {error}") from error


def read_jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield ("FILE:LINE", object) for each line of a JSONL file, blank lines skipped.

    Gzip is detected by its magic bytes, not by the suffix.

    Raises:
        DataError: the file cannot be read or a line is not a JSON object; names file and line.
    """
    try:
        with file.open("rb") as start:
            opener = gzip.open if start.read(2) == _GZIP_MAGIC else open
        with opener(file, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{file}:{number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: invalid JSON: {error}") from error
                yield where, _require_object(row, where)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8; convert it: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def json_records(content: Any, file: Path) -> Iterator[Row]:
    """Yield the records of parsed JSON; a record keyed by its id gets the key as "id".

    Raises:
        DataError: no accepted layout, or a record is not an object; names the file and record.
    """
    if isinstance(content, dict) and content:
        lists = {
            key: value
            for key, value in content.items()
            if isinstance(value, list) and value and isinstance(value[0], dict)
        }
        columns = {key: value for key, value in content.items() if isinstance(value, list)}
        if all(isinstance(value, dict) for value in content.values()):
            content = [{"id": key} | row for key, row in content.items()]
        elif len(lists) == 1:
            (content,) = lists.values()
        elif len(columns) == len(content) and len(set(map(len, columns.values()))) == 1:
            rows = zip(*columns.values(), strict=True)
            content = [dict(zip(columns, row, strict=True)) for row in rows]
        elif lists:
            raise DataError(
                f"{file}: several lists of records ({', '.join(lists)}); save the one to read as "
                "its own file"
            )
    if not isinstance(content, list):
        raise DataError(f"{file}: neither a list nor an object of records")
    for number, row in enumerate(content):
        yield _require_object(row, f"{file}: record {number}")


def _jsonl(file: Path) -> Iterator[Row]:
    return (row for _, row in read_jsonl(file))


def _json(file: Path) -> Iterator[Row]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:  # a ValueError too, which `read_rows` reports
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: invalid JSON: {error}") from error
    yield from json_records(content, file)


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # base64 images exceed the default limit of 128 KiB
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=max(_DELIMITERS, key=header.count))
        try:
            for row in reader:
                if None in row or None in row.values():
                    fields = len(reader.fieldnames or ())
                    raise DataError(
                        f"{file}:{reader.line_num}: not the {fields} fields of the header"
                    )
                yield row
        except csv.Error as error:
            raise DataError(f"{file}:{reader.line_num}: {error}") from error


def _require_object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".parquet": read_parquet,
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
"""File suffix -> reader, in the order of preference for a folder with several kinds."""
