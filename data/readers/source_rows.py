"""The loop every source runs: a row becomes a `Sample`, or a `Dropped` with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers.image_refs import SourceFile
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.errors import DataError, UserError
from sapo_vl.schema import Sample

UNEXPECTED = (AttributeError, LookupError, TypeError, ValueError)
"""Raised by a source's code when a row does not have the documented layout."""


def to_samples(
    rows: Iterable[Row], name: Callable[[Row], str], sample: Callable[[Row], Sample | Dropped]
) -> Iterator[Sample | Dropped]:
    """Convert each row with `sample`; a row that fails becomes a `Dropped` with the id `name(row)`.

    Raises:
        DataError: iterating over the rows fails.
    """
    number = -1
    try:
        for number, row in enumerate(rows):
            identity = f"row {number}"
            try:
                identity = name(row)
                yield sample(row)
            except UNEXPECTED as error:
                yield Dropped(identity, drop_reason(error, row))
    except UserError:
        raise
    except UNEXPECTED as error:
        raise DataError(f"source: row {number + 1} has an unexpected layout: {error!r}") from error


def drop_reason(error: Exception, row: Row) -> str:
    """Describe a failed row as "cause: detail"; the cause is free of data, so it can be counted."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyError):
        return f"a column is missing: {error}; the record has {', '.join(row)}"
    empty = [column for column, value in row.items() if value is None]
    hint = f"; empty: {', '.join(empty)}" if empty else ""
    return f"unexpected value in a column: {error}{hint}"


def rows_with_image(file: Path, column: str, folder: Path, into: str = "image") -> Iterator[Row]:
    """Yield a file's rows; column `into` gets the path in `folder` of the image `column` names.

    Raises:
        DataError: the file cannot be read.
    """
    for row in read_rows(file):
        name = row.get(column)
        yield row | {into: SourceFile(folder, name) if isinstance(name, str) else name}
