"""EasyR1's training format: columns problem, answer, images (a list that may be empty).

    SOURCE = a parquet, JSON or JSONL file or a folder of them, or a hub name (hiyouga/geometry3k,
    hiyouga/math12k, hiyouga/rl-mixed-dataset, ...)

One row:

    {"images": [{"bytes": .., "path": None}], "problem": "<image>Find $x$.", "answer": "3"}

It is the generic reader with these columns, and images where there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import generic
from sapo_vl.schema import Sample

COLUMNS = {"problem": "problem", "answer": "answer"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every record.

    Raises:
        DataError: `source` has no such columns, or cannot be read.
    """
    yield from generic.rows(source, COLUMNS, dataset="easyr1")
