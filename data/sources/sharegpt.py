"""ShareGPT and LLaVA's chat JSON: a human turn, then the model's turn, which is the answer.

    SOURCE = a JSON, JSONL or parquet file or a folder of them

One row, and the form with `messages`:

    {"id": "7", "image": "images/7.png", "conversations": [
        {"from": "human", "value": "<image>\\nHow many cats?"}, {"from": "gpt", "value": "3"}]}
    {"images": ["images/7.png"], "messages": [
        {"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "3"}]}

Only the first exchange is used, with the images that its marks stand for; they may also be in its
parts. An answer in answer tags or in a box is unwrapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import chat, generic
from sapo_vl.data.readers.image_refs import split_refs
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import answer_in_tags
from sapo_vl.schema import IMAGE_MARK, Sample

COLUMNS = {"problem": "problem", "answer": "published_answer", "images": "exchange_images"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every record.

    Raises:
        DataError: `source` has no such columns, or cannot be read.
    """
    yield from generic.rows(source, COLUMNS, dataset="sharegpt", change=_first_exchange)


def _first_exchange(row: Row) -> Row:
    turns = row["messages"] if "messages" in row else row["conversations"]
    exchange = chat.first_exchange(turns)
    images = split_refs(row.get("images") or row.get("image")) or exchange.image_refs
    marks = exchange.question.count(IMAGE_MARK)
    if exchange.later and len(images) == marks + exchange.later:
        images = images[:marks]
    return row | {
        "problem": exchange.question,
        "published_answer": answer_in_tags(exchange.answer),
        "exchange_images": images,
    }
