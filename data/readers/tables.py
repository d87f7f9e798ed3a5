"""Rows of a file as dicts: parquet, JSON, JSONL, CSV and TSV. Shared by the sources.

    for row in tables.read(Path("data/testmini.json")): ...

A JSON file is a list of records, an object of records by their ids, an object around one list of
records, or an object of columns. Parquet, JSONL and CSV are streamed; a JSON file is read whole.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError

BATCH_ROWS = 16
"""Rows of parquet held at a time: few, because they carry pictures."""

_PART = re.compile(r"(?P<series>.*-)(?P<number>\d{5})-of-(?P<total>\d{5})")
_DELIMITERS = ",;\t"

BUFFER_BYTES = 2**20
"""Of parquet that are read ahead in each column."""

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
        if not file.stat().st_size:
            raise DataError(f"{file}: is empty: fetch it again, or take it out")
        yield from reader(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no UTF-8, save it as that: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def files(source: Path) -> list[Path]:
    """Return the files of records of a folder, in order; of the first kind in `READERS` it has.

    Raises:
        DataError: there are none, or a shard of a series is not there.
    """
    if source.is_file():
        return [source]
    tables = [p for p in source.rglob("*") if p.suffix.lower() in READERS and p.is_file()]
    seen = sorted(p for p in tables if not _hidden(p.relative_to(source)))
    for suffix in READERS:
        found = [p for p in seen if p.suffix.lower() == suffix]
        if found:
            return whole(found)
    raise DataError(f"source: {source} holds no file of records ({', '.join(READERS)})")


def whole(shards: list[Path]) -> list[Path]:
    """Return the files; NAME-00000-of-00003 and so on have to be all there.

    Raises:
        DataError: names one that is missing.
    """
    parts = [m for p in shards if (m := _PART.fullmatch(str(p.with_suffix(""))))]
    of_series = itemgetter("series", "total")
    for (series, total), own in groupby(sorted(parts, key=of_series), of_series):
        missing = set(range(int(total))) - {int(m["number"]) for m in own}
        if missing:
            first = f"{series}{min(missing):05d}-of-{total}{shards[0].suffix}"
            raise DataError(f"{first}: is missing, as {len(missing)} of {int(total)} shards are")
    return shards


def written(value: Any) -> Any:
    """Return what a text cell spells out as JSON or as Python prints it; else the value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{", "("):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return value


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Buffered: else a whole row group lies in memory, which may be the whole file.
        with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
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
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}: line {number} is no JSON: {error}") from error
            yield _record(row, f"{file}: line {number}")


def _json(file: Path) -> Iterator[Row]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON: {error}") from error
    yield from records(content, file)


def records(content: Any, file: Path) -> Iterator[Row]:
    """Yield the records of parsed JSON; one of an object of records gets its key as "id".

    Raises:
        DataError: names the file and the record that is no object.
    """
    if isinstance(content, dict) and content:
        lists = {k: v for k, v in content.items() if isinstance(v, list) and v and _is_record(v[0])}
        columns = {k: v for k, v in content.items() if isinstance(v, list)}
        if all(map(_is_record, content.values())):
            content = [{"id": key} | row for key, row in content.items()]
        elif len(lists) == 1:
            (content,) = lists.values()
        elif len(columns) == len(content) and len(set(map(len, columns.values()))) == 1:
            rows = zip(*columns.values(), strict=True)
            content = [dict(zip(columns, row, strict=True)) for row in rows]
        elif lists:
            raise DataError(
                f"{file}: has several lists of records ({', '.join(lists)}): write the right one "
                "into a file of its own"
            )
    if not isinstance(content, list):
        raise DataError(f"{file}: neither a list nor an object of records")
    for number, row in enumerate(content):
        yield _record(row, f"{file}: record {number}")


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a picture in base64 is longer than the usual limit
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=max(_DELIMITERS, key=header.count))
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
