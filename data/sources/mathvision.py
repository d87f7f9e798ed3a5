"""MathVision: 3,040 competition problems with images (Wang et al., 2402.14804; MIT licence).

    original layout: SOURCE/data/testmini.jsonl, SOURCE/data/test.jsonl, SOURCE/images/5.jpg
    Hugging Face:    SOURCE = MathLLMs/MathVision

One row:

    {"id": "6", "question": "Misty the cat has five kittens: ... different colour?\\n<image1>",
     "options": ["A", "B", "C", "D", "E"], "answer": "D", "solution": null, "level": 3,
     "subject": "logic", "image": "images/6.jpg"}

Several images of a problem are merged into one file: the first `<image1>` is its place, `<image2>`
and later tags stay in the text as names of its parts. Left out: the human `solution`, which is not
a response in our format. The source has no training split of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import append_choices
from sapo_vl.data.readers.image_refs import file_names, load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK, Sample

SPLITS = ("testmini", "test")
"""testmini is a part of test: a row that is in both counts as testmini."""

_LETTERS = tuple("ABCDE")
_NUMBER = re.compile(r"-?[\d,]*\.?\d+")


def rows(source: str | Path, splits: Sequence[str] = SPLITS) -> Iterator[Sample | Dropped]:
    """Yield every problem of `splits` once, split by split.

    Raises:
        DataError: `source` is neither a folder of the original layout nor on the hub.
    """
    folder = Path(source)
    records = _once(_local(folder, splits) if folder.is_dir() else hub.rows(source, splits))
    for record in to_samples(records, _name, _sample):
        if isinstance(record, Dropped) and record.reason.startswith("missing image file"):
            # Copies of the data set with a part of the images are common: train on what is there.
            yield replace(record, by_rule=True)
        else:
            yield record


def _name(row: Row) -> str:
    return f"mathvision-{row['id']}"


def _sample(row: Row) -> Sample:
    options, answer = row["options"] or (), cell_text(row["answer"])
    question = row["question"].replace("<image1>", IMAGE_MARK, 1)
    question = prepend_marks(question, 1)
    if [option.strip("()") for option in options] != list(ascii_uppercase[: len(options)]):
        question = append_choices(question, options)
    if options or answer in _LETTERS:
        answer_type = "choice"
    else:
        answer_type = "number" if _NUMBER.fullmatch(answer) else "expression"
    published: Published = {
        "problem_id": str(row["id"]),
        "answer": str(row["answer"]),
        "question": row["question"],
        "choices": list(options),
        "question_type": "multi_choice" if options else "free_form",
        "tables": {"subject": row["subject"], "level": row["level"]},
    }
    return Sample(
        id=_name(row),
        dataset="mathvision",
        task=row["subject"],
        problem=question,
        images=(load_image(row["decoded_image"]),),
        answer=answer,
        answer_type=answer_type,
        choices=tuple(options),
        metadata={
            "split": row["split"],
            "published": published,
            "files": file_names(row["image"]),
        },
    )


def _once(records: Iterator[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in records:
        if row["id"] not in seen:
            seen.add(row["id"])
            yield row


def _local(folder: Path, splits: Sequence[str]) -> Iterator[Row]:
    files = {split: folder / "data" / f"{split}.jsonl" for split in splits}
    if not any(file.is_file() for file in files.values()):
        if any(folder.rglob("*.parquet")):
            yield from hub.rows(folder, splits)
            return
        raise DataError(f"mathvision: {folder} has none of data/{{{','.join(splits)}}}.jsonl")
    for split, file in files.items():
        if file.is_file():
            for row in rows_with_image(file, "image", folder, into="decoded_image"):
                yield row | {"split": split}
