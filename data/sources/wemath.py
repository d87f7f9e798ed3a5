"""We-Math: 1,740 problems, multi-step ones with their sub-steps (2407.01284; CC BY-NC 4.0).

    original layout: SOURCE/data/testmini.json, SOURCE/data/2steps/image/1-1.png
    Hugging Face:    SOURCE = We-Math/We-Math (there `image_path` is the image itself)

One row:

    {"ID": "2steps_1", "split": "testmini", "knowledge concept": "Conversion Rates ..",
     "question": "According to the diagram and ..: OA = ( ) m, AB = ( ) m",
     "option": "A. 300, 400;B. 400, 300;C. 3000, 4000;D. 4000, 3000; E. No correct answer",
     "answer": "C", "image_path": "2steps/image/1-1.png", "key": "2steps_1", ..,
     "knowledge concept description": "Conversion Rates and ..:\\n.."}

`ID` names a group and `key` the step in it; both are in `published`, for the four-dimensional
metric. Left out: the long description of the knowledge concept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import append_choices, split_choices
from sapo_vl.data.readers.image_refs import file_names, load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

SPLITS = ("testmini",)


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every step of every group; all are held out.

    Raises:
        DataError: `source` has neither layout.
    """
    file = Path(source) / "data" / "testmini.json"
    if file.is_file():
        records = rows_with_image(file, "image_path", file.parent, into="image_path")
    else:
        records = hub.rows(source, SPLITS)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"wemath-{row['ID']}-{row['key']}"


def _sample(row: Row) -> Sample:
    choices = split_choices(row["option"])
    if not choices:
        raise DataError(f"the choices are not A. ..; B. ..: {row['option']!r}")
    published: Published = {
        "problem_id": row["ID"],
        "variant": row["key"],
        "answer": row["answer"],
        "question": row["question"],
        "choices": list(choices),
        "choice_text": row["option"],
        "question_type": "multi_choice",
        "tables": {"key": row["key"], "knowledge_concept": row["knowledge concept"].split(";")},
    }
    return Sample(
        id=_name(row),
        dataset="wemath",
        task=row["key"].rpartition("_")[0] + ("_multi" if "multi" in row["key"] else "_single"),
        problem=prepend_marks(append_choices(row["question"], choices), 1),
        images=(load_image(row["image_path"]),),
        answer=cell_text(row["answer"]),
        answer_type="choice",
        choices=choices,
        split="test",
        metadata={"published": published, "files": file_names(row["image_path"])},
    )
