"""verl's training format: a chat prompt, the answer in reward_model.ground_truth.

    SOURCE = a parquet, JSON or JSONL file or a folder of them, or a hub name

One row:

    {"data_source": "hiyouga/geometry3k", "prompt": [{"role": "user", "content": "<image>Find x."}],
     "images": [{"bytes": .., "path": None}], "ability": "math",
     "reward_model": {"style": "rule", "ground_truth": "3"},
     "extra_info": {"split": "train", "index": 0, "answer": "3", "question": "<image>Find x."}}

The problem is `extra_info.question` where it is given, because the prompt ends with verl's own
instruction; else it is the prompt's last user turn. System and earlier turns go before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import chat, generic
from sapo_vl.data.readers.literals import parse_literal
from sapo_vl.data.readers.tables import Row
from sapo_vl.schema import Sample

COLUMNS = {
    "problem": "problem",
    "answer": "reward_model.ground_truth",
    "split": "part",
}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every record.

    Raises:
        DataError: `source` has no such columns, or cannot be read.
    """
    yield from generic.rows(source, COLUMNS, dataset="verl", change=_with_problem)


def _with_problem(row: Row) -> Row:
    extra = parse_literal(row.get("extra_info"))
    extra = extra if isinstance(extra, dict) else {}
    return row | {
        "problem": chat.last_question(row["prompt"], extra.get("question")),
        "part": extra.get("split"),
    }
