"""Geometry3K: 3,002 plane geometry problems (Lu et al., Inter-GPS, 2105.04165; MIT licence).

    original layout: SOURCE/[geometry3k/]train/11/data.json and img_diagram.png; also val/, test/
    Hugging Face:    SOURCE = hiyouga/geometry3k

One data.json, and the row that the hub has of the same problem:

    {"id": 11, "annotat_text": "In $\\odot X, A B=30, C D=30,$ and ... Find $m\\widehat{A B}$",
     "choices": ["30", "40", "60", "80"], "answer": "D", "problem_type_graph": ["Circle"],
     "problem_type_goal": ["Angle"], "unit": "", "data_type": "train", ...}
    {"images": [{"bytes": .., "path": None}], "problem": "<image>Find $x$.", "answer": "3", ...}

The answer is the value of the right choice, as in the hub's version; the choices are not shown to
the model and are in the metadata. Left out: logic forms and point annotations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.image_refs import SourceFile, file_names, load_images
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import UNEXPECTED, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK, Sample

SPLITS = ("train", "validation", "test")
_FOLDERS = {"train": "train", "val": "validation", "test": "test"}


def rows(source: str | Path, splits: Sequence[str] = SPLITS) -> Iterator[Sample | Dropped]:
    """Yield the problems of `splits`, in the data set's order of splits.

    Raises:
        DataError: `source` has neither layout, or a data.json cannot be read.
    """
    folder = Path(source)
    folder = folder / "geometry3k" if (folder / "geometry3k").is_dir() else folder
    local = any((folder / name).is_dir() for name in _FOLDERS)
    records = _local(folder, splits) if local else _numbered(hub.rows(source, splits))
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"geometry3k-{row['id']}"


def _sample(row: Row) -> Sample:
    images = load_images(row["images"])
    answer = cell_text(row["answer"])
    goal = row.get("problem_type_goal")
    published: Published = {
        "problem_id": str(row.get("number", row["id"])),
        "answer": row["answer"],
        "question": row["problem"].replace(IMAGE_MARK, ""),
        "tables": {} if goal is None else {"goal": goal},
    }
    return Sample(
        id=_name(row),
        dataset="geometry3k",
        task=(goal or ["geometry"])[0].lower(),
        problem=prepend_marks(row["problem"], len(images)),
        images=images,
        answer=answer,
        answer_type=gold_type(answer),
        unit=row.get("unit") or None,
        split="train" if row["split"] == "train" else "test",
        metadata={
            "split": row["split"],
            "choices": list(row.get("choices") or ()),
            "graph": row.get("problem_type_graph") or [],
            "published": published,
            "files": file_names(row["images"]),
        },
    )


def _numbered(records: Iterator[Row]) -> Iterator[Row]:
    for number, row in enumerate(records):
        if row.get("id") is None:
            row |= {"id": f"{row['split']}-{number}", "number": number}
        yield row


def _local(folder: Path, splits: Sequence[str]) -> Iterator[Row]:
    for name, split in _FOLDERS.items():
        if split not in splits:
            continue
        problems = list((folder / name).glob("*/data.json"))
        for file in sorted(problems, key=lambda p: (len(p.parent.name), p.parent.name)):
            try:
                row = json.loads(file.read_text(encoding="utf-8"))
                value = row["choices"]["ABCD".index(row["answer"])]
                text = row.get("annotat_text") or row["problem_text"]
            except UNEXPECTED as error:
                raise DataError(f"{file}: no problem with an answer A to D: {error!r}") from error
            yield row | {
                "split": split,
                "problem": IMAGE_MARK + text,
                "answer": value,
                "images": [SourceFile(file.parent, "img_diagram.png")],
            }
