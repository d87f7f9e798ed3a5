"""ChartQA: 32,719 questions on charts, human and machine-written (2203.10244; GPL-3.0).

    original layout: SOURCE/train/train_human.json, train_augmented.json, SOURCE/train/png/NAME.png;
                     also val/, test/
    Hugging Face:    SOURCE = HuggingFaceM4/ChartQA

One row of the original, and of the hub:

    {"imgname": "41699051005347.png", "query": "How many food item is shown in the bar graph?",
     "label": "14"}
    {"image": {"bytes": .., "path": ..}, "query": "How many ..?", "label": ["14"],
     "human_or_machine": 0}

The official metric accepts numbers within 5 %, which `rel_tol` says. Left out: the charts' tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.image_refs import file_names, load_image
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.schema import Sample

SPLITS = ("train", "val", "test")
TOLERANCE = 0.05
_KINDS = ("human", "augmented")


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the questions of train, val and test; val and test are held out.

    Raises:
        DataError: `source` has neither layout.
    """
    folder = Path(source)
    files = [folder / split / f"{split}_{kind}.json" for split in SPLITS for kind in _KINDS]
    files = [file for file in files if file.is_file()]
    records = chain.from_iterable(map(_local, files)) if files else hub.rows(source, SPLITS)
    numbered = (row | {"number": number} for number, row in enumerate(records))
    yield from to_samples(numbered, _name, _sample)


def _name(row: Row) -> str:
    return f"chartqa-{row['split']}-{row['number']}"


def _sample(row: Row) -> Sample:
    label = row["label"][0] if isinstance(row["label"], list) else row["label"]
    answer = cell_text(label)
    kind = row["human_or_machine"]
    return Sample(
        id=_name(row),
        dataset="chartqa",
        task=_KINDS[kind] if isinstance(kind, int) else str(kind),
        problem=prepend_marks(row["query"], 1),
        images=(load_image(row["image"]),),
        answer=answer,
        answer_type=gold_type(answer),
        rel_tol=TOLERANCE,
        split="train" if row["split"] == "train" else "test",
        metadata={
            "split": row["split"],
            "files": file_names(row["image"]),
        },
    )


def _local(file: Path) -> Iterator[Row]:
    split, _, kind = file.stem.partition("_")
    for row in rows_with_image(file, "imgname", file.parent / "png"):
        yield row | {"split": split, "human_or_machine": _KINDS.index(kind)}
