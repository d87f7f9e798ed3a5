"""Read parquet, arrow, JSON, JSON lines, CSV and TSV files as rows (dicts), packed or not.

    for row in read_rows(Path("data/testmini.json")): ...

JSON lines are read whatever the file's suffix. All but a JSON document, which is loaded whole, are
streamed; files.py has the bounds and json_layouts.py the layouts of a document.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.files import (
    MAX_LINE_BYTES,
    MAX_RATIO,
    data_suffix,
    kind_of,
    opened,
    read_lines,
    read_whole,
)
from sapo_vl.data.readers.json_layouts import json_records, require_object
from sapo_vl.errors import DataError

BATCH_ROWS = 16
"""Parquet rows decoded at a time; small, because each row carries images."""

BUFFER_BYTES = 2**20
"""Read-ahead per parquet column."""

MAX_CHUNK_BYTES = 2**24
"""A parquet column chunk above this that unpacks to over MAX_RATIO times its size is refused."""

MAX_BATCH_BYTES = 2**28
"""A batch of rows above this is converted row by row."""

Row = dict[str, Any]

_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t"


def read_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of one file in order.

    Raises:
        DataError: the file is unreadable, empty or malformed; names it and the line or row.
    """
    try:
        if not file.stat().st_size:
            raise DataError(f"{file}: the file is empty; download it again or remove it")
        yield from _READERS[kind_of(file)](file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8; convert it: {error}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def read_parquet(file: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a parquet file in order, `BATCH_ROWS` decoded at a time.

    Raises:
        DataError: the file is damaged, a decompression bomb, or lacks one of `columns`.
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
            _refuse_parquet_bomb(table.metadata, file)
            for batch in table.iter_batches(BATCH_ROWS, use_threads=False):
                for row in _batch_rows(batch):
                    yield row
                    number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: damaged parquet file, at row {number}: {error}") from error


def read_jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield ("FILE:LINE", object) for each line of a JSONL file, blank lines skipped.

    A packed file is told by its first bytes, not by the suffix.

    Raises:
        DataError: the file cannot be read or a line is not a JSON object; names file and line.
    """
    try:
        for number, line in enumerate(read_lines(file), start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError:
                raise
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: invalid JSON: {error}") from error
            yield where, require_object(row, where)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8; convert it: {error}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _refuse_parquet_bomb(metadata: Any, file: Path) -> None:
    """Raise DataError for a column chunk that a few bytes unpack to."""
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            size = chunk.total_uncompressed_size
            if size > MAX_CHUNK_BYTES and size > MAX_RATIO * chunk.total_compressed_size:
                raise DataError(
                    f"{file}: the column {chunk.path_in_schema!r} unpacks to over {MAX_RATIO} "
                    "times its size"
                )


def _batch_rows(batch: Any) -> Iterator[Row]:
    if batch.nbytes <= MAX_BATCH_BYTES:
        yield from batch.to_pylist()
        return
    for number in range(batch.num_rows):
        yield from batch.slice(number, 1).to_pylist()


def _arrow(file: Path) -> Iterator[Row]:
    """Yield the rows of an arrow file, as `datasets` saves them to disk."""
    import pyarrow as pa

    state = file.parent / "state.json"
    note = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    if isinstance(note, dict) and note.get("_indices_data_files"):
        raise DataError(f"{file.parent}: saved with a selection of rows; save it flattened")
    try:
        with pa.memory_map(str(file)) as mapped:
            is_file = mapped.read(6) == b"ARROW1"
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)
            batches = (
                (reader.get_batch(i) for i in range(reader.num_record_batches))
                if is_file
                else reader
            )
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield from _batch_rows(batch.slice(start, BATCH_ROWS))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}: damaged arrow file: {error}") from error


def _json(file: Path) -> Iterator[Row]:
    """Yield the records of JSON lines or of a JSON document; the first lines tell which it is."""
    with opened(file) as stream:
        start = stream.readline(MAX_LINE_BYTES + 1).removeprefix(_BOM)
        while start and not start.strip():
            start = stream.readline(MAX_LINE_BYTES + 1)
        more = start.endswith(b"\n") and _has_text(iter(lambda: stream.readline(2**16), b""))
    try:
        first = json.loads(start.decode()) if len(start) <= MAX_LINE_BYTES else None
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError):
        first = None
    is_lines = data_suffix(file) in (".jsonl", ".ndjson")
    is_document = start.strip() in (b"[", b"{", b"[{") or (
        isinstance(first, list) and bool(first) and isinstance(first[0], dict)
    )
    if (isinstance(first, dict) and more) or (is_lines and not is_document):
        return (row for _, row in read_jsonl(file))
    return _document(file)


def _has_text(lines: Iterator[bytes]) -> bool:
    return any(line.strip() for line in islice(lines, 1000))


def _document(file: Path) -> Iterator[Row]:
    try:
        content = json.loads(read_whole(file).removeprefix(_BOM).decode())
    except UnicodeDecodeError:  # a ValueError too, which `read_rows` reports
        raise
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: invalid JSON: {error}") from error
    return json_records(content, file)


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)  # base64 images exceed the default limit of 128 KiB
    lines = chain.from_iterable(
        io.StringIO(line.decode("utf-8-sig" if number == 0 else "utf-8"), newline="")
        for number, line in enumerate(read_lines(file))
    )
    header = next(lines, "")
    reader = csv.DictReader(chain([header], lines), delimiter=max(_DELIMITERS, key=header.count))
    try:
        for row in reader:
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                raise DataError(f"{file}:{reader.line_num}: not the {fields} fields of the header")
            yield row
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "parquet": read_parquet,
    "arrow": _arrow,
    "json": _json,
    "csv": _csv,
}
"""Kind of `files.KINDS` -> reader."""
