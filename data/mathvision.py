"""MathVision: 3,040 competition problems with pictures (Wang et al., 2402.14804; MIT licence).

    original layout: SOURCE/data/testmini.jsonl, SOURCE/data/test.jsonl, SOURCE/images/5.jpg
    Hugging Face:    SOURCE = MathLLMs/MathVision

One row:

    {"id": "6", "question": "Misty the cat has five kittens: ... different colour?\\n<image1>",
     "options": ["A", "B", "C", "D", "E"], "answer": "D", "solution": null, "level": 3,
     "subject": "logic", "image": "images/6.jpg"}

Several pictures of one problem are merged into one file: the first `<image1>` says where it goes,
`<image2>` and later marks stay in the text as names of its parts. Left out: the human `solution`,
which is no response in our format. The source has no training split of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sapo_vl.data import Dropped, hub
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK, Sample

SPLITS = ("testmini", "test")
"""testmini is a part of test: a row that is in both counts as testmini."""

_LETTERS = tuple("ABCDE")
_NUMBER = re.compile(r"-?[\d,]*\.?\d+")


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every problem once, testmini first.

    Raises:
        DataError: `source` is neither a folder of the original layout nor on the hub.
    """
    seen: set[str] = set()
    folder = Path(source)
    local = folder.is_dir()
    for row in _local(folder) if local else hub.rows(str(source), SPLITS, "decoded_image"):
        if row["id"] in seen:
            continue
        seen.add(row["id"])
        if row["decoded_image"] is None:
            yield Dropped(f"mathvision-{row['id']}", f"missing image file: {row['image']}")
        else:
            yield _sample(row)


def _sample(row: dict[str, Any]) -> Sample:
    options, answer = row["options"], str(row["answer"])
    question = row["question"].replace("<image1>", IMAGE_MARK, 1)
    if IMAGE_MARK not in question:
        question = f"{IMAGE_MARK}\n{question}"
    if [option.strip("()") for option in options] != list(ascii_uppercase[: len(options)]):
        listed = (
            f"({letter}) {text}" for letter, text in zip(ascii_uppercase, options, strict=False)
        )
        question = "\n".join((question, *listed))
    if options or answer in _LETTERS:
        answer_type = "choice"
    else:
        answer_type = "number" if _NUMBER.fullmatch(answer) else "expression"
    return Sample(
        id=f"mathvision-{row['id']}",
        dataset="mathvision",
        task=row["subject"],
        problem=question,
        images=(row["decoded_image"],),
        answer=answer,
        answer_type=answer_type,
        choices=tuple(options),
        metadata={"level": row["level"], "subject": row["subject"], "split": row["split"]},
    )


def _local(folder: Path) -> Iterator[dict[str, Any]]:
    files = {split: folder / "data" / f"{split}.jsonl" for split in SPLITS}
    if not any(file.is_file() for file in files.values()):
        raise DataError(f"mathvision: {folder} has neither data/testmini.jsonl nor data/test.jsonl")
    for split, file in files.items():
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        for row in map(json.loads, text.rstrip("\n").split("\n") if text else ()):
            picture = folder / row["image"]
            data = picture.read_bytes() if picture.is_file() else None
            yield row | {"split": split, "decoded_image": data}
