"""TRL's format for GRPO on images: prompt (a chat), image or images, and the answer in solution.

    SOURCE = a parquet, JSON or JSONL file or a folder of them, or a hub name

One row:

    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ".."}]}],
     "images": [{"bytes": .., "path": None}], "solution": "3"}

It is the generic reader with this column: the prompt may also be a plain string, its parts may hold
the images, and the answer may be in `answer`; answer tags or a box around it are stripped.
System and earlier turns go before the problem. Left out: completions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import generic
from sapo_vl.schema import Sample

COLUMNS = {"problem": "prompt"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every record.

    Raises:
        DataError: `source` has no such columns, or cannot be read.
    """
    yield from generic.rows(source, COLUMNS, dataset="trl")
