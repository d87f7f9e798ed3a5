"""Rows of a file as dicts: parquet, JSON, JSONL, CSV and TSV. Shared by the sources.

    for row in tables.read(Path("data/testmini.json")): ...

A JSON file is a list of records, an object of records by their ids, or an object around one list
of records. Parquet, JSONL and CSV are streamed; a JSON file is read whole.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError

BATCH_ROWS = 16
"""Rows of parquet held at a time: few, because they carry pictures."""

Row = dict[str, Any]


def read(file: Path) -> Iterator[Row]:
    """Yield the rows of one file, in order.

    Raises:
        DataError: names the file, and the line or row where it cannot be read.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file}: a file of records ends in {', '.join(READERS)}")
    try:
        yield from reader(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def files(source: Path) -> list[Path]:
    """Return the files of records of a folder, in order; of the first kind in `READERS` it has.

    Raises:
        DataError: there are none.
    """
    if source.is_file():
        return [source]
    for suffix in READERS:
        found = sorted(p for p in source.rglob(f"*{suffix}") if p.is_file() and p.stat().st_size)
        if found:
            return found
    raise DataError(f"source: {source} holds no file of records ({', '.join(READERS)})")


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file, memory_map=True) as table:
            for batch in table.iter_batches(BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    yield row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a whole parquet file, at row {number}: {error}") from error


def _jsonl(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}: line {number} is no JSON: {error}") from error
            yield _record(row, f"{file}: line {number}")


def _json(file: Path) -> Iterator[Row]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}") from error
    yield from records(content, file)


def records(content: Any, file: Path) -> Iterator[Row]:
    """Yield the records of parsed JSON; one of an object of records gets its key as "id".

    Raises:
        DataError: names the file and the record that is no object.
    """
    if isinstance(content, dict):
        lists = [v for v in content.values() if isinstance(v, list) and v and _is_record(v[0])]
        if content and all(map(_is_record, content.values())):
            content = [{"id": key} | row for key, row in content.items()]
        elif len(lists) == 1:
            content = lists[0]
        else:
            raise DataError(f"{file}: neither a list nor an object of records")
    if not isinstance(content, list):
        raise DataError(f"{file}: neither a list nor an object of records")
    for number, row in enumerate(content):
        yield _record(row, f"{file}: record {number}")


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a picture in base64 is longer than the usual limit
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{file}: line {reader.line_num} has not the {len(reader.fieldnames or ())}"
                        " fields of the header"
                    )
                yield row
        except csv.Error as error:
            raise DataError(f"{file}: line {reader.line_num}: {error}") from error


def _is_record(value: object) -> bool:
    return isinstance(value, dict)


def _record(row: Any, where: str) -> Row:
    if not _is_record(row):
        raise DataError(f"{where} is a {type(row).__name__}, not an object")
    return row


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
"""A file's ending -> its reader, in the order in which a folder's files are chosen."""
