"""ShareGPT and LLaVA's chat JSON: a human turn, then the model's turn, which is the answer.

    SOURCE = a JSON, JSONL or parquet file or a folder of them

One row, and the form with `messages`:

    {"id": "7", "image": "images/7.png", "conversations": [
        {"from": "human", "value": "<image>\\nHow many cats?"}, {"from": "gpt", "value": "3"}]}
    {"images": ["images/7.png"], "messages": [
        {"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "3"}]}

Only the first exchange is used, with what precedes it and the images that its marks stand for; they
may also be in its parts. Later turns are left out and counted. Of an answer that is a worked
solution the marked answer is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import chat, generic
from sapo_vl.data.readers.image_refs import split_refs
from sapo_vl.data.readers.literals import is_missing
from sapo_vl.data.readers.tables import Row
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK, Sample

CHATS = ("messages", "conversations", "conversation")
COLUMNS = {"problem": "problem", "answer": "published_answer", "images": "exchange_images"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every record.

    Raises:
        DataError: `source` has no such columns, or cannot be read.
    """
    yield from generic.rows(source, COLUMNS, dataset="sharegpt", change=_first_exchange)


def _first_exchange(row: Row) -> Row:
    column = next((name for name in CHATS if not is_missing(row.get(name))), None)
    if column is None:
        raise DataError(f"the record has no chat: none of {', '.join(CHATS)}")
    exchange = chat.first_exchange(row[column])
    question = exchange.question
    images = split_refs(row.get("images") or row.get("image")) or question.image_refs
    marks = question.text.count(IMAGE_MARK)
    if exchange.later and len(images) == marks + exchange.later:
        images = images[:marks]
    kept = {name: cell for name, cell in row.items() if name not in CHATS}
    return kept | {
        "problem": question,
        "published_answer": exchange.answer,
        "exchange_images": images,
    }
