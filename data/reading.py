"""The loop that all sources share: a row becomes a sample, or a drop with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

Row = dict[str, Any]


def samples(
    rows: Iterable[Row], name: Callable[[Row], str], sample: Callable[[Row], Sample | Dropped]
) -> Iterator[Sample | Dropped]:
    """Yield what `sample` makes of each row; a DataError of it becomes a drop under its `name`.

    Raises:
        DataError: a row lacks a column that every row of the source has.
    """
    for number, row in enumerate(rows):
        try:
            identity = name(row)
            try:
                made = sample(row)
            except DataError as error:
                made = Dropped(identity, str(error))
        except KeyError as error:
            raise DataError(
                f"source: record {number} has no column {error}; its columns: {', '.join(row)}"
            ) from error
        yield made
