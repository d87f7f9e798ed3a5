"""ViRL39K: 38,870 image-text problems with verified answers, for training (VL-Rethinker, MIT).

    Hugging Face:    SOURCE = TIGER-Lab/ViRL39K as a folder: its parquet file, and its images
                     unpacked beside it (images/..); or a re-upload with embedded images

One row:

    {"question": "<image>In the figure, ... what is the area?", "answer": "\\\\boxed{12}",
     "PassRate_32BTrained": 0.875, "PassRate_7BBase": 0.25, "category": "(GradeSchool) Geometric",
     "source": "Geometry3K", "qid": "Geometry3K-1-0", "image": ["images/Geometry3K-1-0.png"]}

A re-upload has `problem` for `question` and `images` for `image`. The pass rates go into the
metadata. The columns of the original were known from its card alone when this was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.files import record_files
from sapo_vl.data.readers.image_refs import Place, file_names, load_images
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks, strip_answer
from sapo_vl.schema import Sample

SPLITS = ("train",)
_METADATA = ("PassRate_32BTrained", "PassRate_7BBase", "category", "source")


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every problem, in the order of the files.

    Raises:
        DataError: `source` has neither layout.
    """
    path = Path(source)
    records = _local(path) if path.exists() else hub.rows(source, SPLITS)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"virl39k-{row['qid']}"


def _sample(row: Row) -> Sample:
    cell = row["images"] if "images" in row else row["image"]
    images = load_images(cell, row.get("place"))
    answer = strip_answer(cell_text(row["answer"]))
    return Sample(
        id=_name(row),
        dataset="virl39k",
        task=row["category"],
        problem=prepend_marks(row["problem"] if "problem" in row else row["question"], len(images)),
        images=images,
        answer=answer,
        answer_type=gold_type(answer),
        metadata={key: row[key] for key in _METADATA if key in row}
        | {"published_answer": row["answer"], "files": file_names(cell)},
    )


def _local(path: Path) -> Iterator[Row]:
    folder = path if path.is_dir() else path.parent
    for file in record_files(path):
        for row in read_rows(file):
            yield row | {"place": Place(folder, folder)}
