"""The loop that all sources share: a row becomes a sample, or a drop with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.readers import tables
from sapo_vl.errors import DataError, UserError
from sapo_vl.schema import Sample

Row = dict[str, Any]

UNEXPECTED = (AttributeError, LookupError, TypeError, ValueError)
"""What reading raises where a row has not the form that the source's file shows."""


def samples(
    rows: Iterable[Row], name: Callable[[Row], str], sample: Callable[[Row], Sample | Dropped]
) -> Iterator[Sample | Dropped]:
    """Yield what `sample` makes of each row; where it cannot, a drop under the row's `name`.

    Raises:
        DataError: the rows themselves cannot be read on.
    """
    number = -1
    try:
        for number, row in enumerate(rows):
            identity = f"row {number}"
            try:
                identity = name(row)
                yield sample(row)
            except UNEXPECTED as error:
                yield Dropped(identity, reason(error, row))
    except UserError:
        raise
    except UNEXPECTED as error:
        raise DataError(f"source: row {number + 1} is not of its form: {error!r}") from error


def reason(error: Exception, row: Row) -> str:
    """Return in words why a row could not be read: "cause: detail", the cause without its data."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyError):
        return f"a column is missing: {error}; the record has {', '.join(row)}"
    empty = [column for column, value in row.items() if value is None]
    hint = f"; empty: {', '.join(empty)}" if empty else ""
    return f"a column holds something unexpected: {error}{hint}"


def local(file: Path, column: str, folder: Path, into: str = "image") -> Iterator[Row]:
    """Yield the rows of a file, with the path in `folder` of the picture that `column` names.

    Raises:
        DataError: the file cannot be read.
    """
    for row in tables.read(file):
        picture = row.get(column)
        yield row | {into: folder / picture if isinstance(picture, str) else picture}
