"""TRL's format for GRPO on pictures: prompt (a chat), image or images, and the gold in solution.

    SOURCE = a parquet, JSON or JSONL file or a folder of them, or a hub name

One row:

    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ".."}]}],
     "images": [{"bytes": .., "path": None}], "solution": "3"}

The prompt may also be a plain string, and the gold may be in `answer`; a gold in answer tags or in
a box is taken out of them. Left out: system turns and completions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped, chat, generic, wording
from sapo_vl.data.reading import Row
from sapo_vl.data.sources.clevr_count import tagged
from sapo_vl.schema import Sample

COLUMNS = {"problem": "problem", "answer": "gold", "images": "pictures"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every record.

    Raises:
        DataError: `source` has no such columns, or cannot be read.
    """
    yield from generic.rows(source, COLUMNS, dataset="trl", change=_named)


def _named(row: Row) -> Row:
    gold = row["solution"] if "solution" in row else row["answer"]
    return row | {
        "problem": chat.last_user_text(row["prompt"]),
        "gold": wording.bare(tagged(str(gold))),
        "pictures": row["images"] if "images" in row else row.get("image"),
    }
