"""We-Math: 1,740 problems, multi-step ones with their sub-steps (2407.01284; CC BY-NC 4.0).

    original layout: SOURCE/data/testmini.json, SOURCE/data/2steps/image/1-1.png
    Hugging Face:    SOURCE = We-Math/We-Math (there `image_path` is the picture itself)

One row:

    {"ID": "2steps_1", "split": "testmini", "knowledge concept": "Conversion Rates ..",
     "question": "According to the diagram and ..: OA = ( ) m, AB = ( ) m",
     "option": "A. 300, 400;B. 400, 300;C. 3000, 4000;D. 4000, 3000; E. No correct answer",
     "answer": "C", "image_path": "2steps/image/1-1.png", "key": "2steps_1", ..,
     "knowledge concept description": "Conversion Rates and ..:\\n.."}

`ID` names a group and `key` the step in it; both are in the metadata, for the four-dimensional
metric. Left out: the long description of the knowledge concept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers import image_refs as pictures
from sapo_vl.data.readers import text as wording
from sapo_vl.data.readers.source_rows import Row, local, samples
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

SPLITS = ("testmini",)


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every step of every group; all are held out.

    Raises:
        DataError: `source` has neither form.
    """
    file = Path(source) / "data" / "testmini.json"
    if file.is_file():
        found = local(file, "image_path", file.parent, into="image_path")
    else:
        found = hub.rows(source, SPLITS)
    yield from samples(found, _name, _sample)


def _name(row: Row) -> str:
    return f"wemath-{row['ID']}-{row['key']}"


def _sample(row: Row) -> Sample:
    choices = wording.options(row["option"])
    if not choices:
        raise DataError(f"the options are not A. ..; B. ..: {row['option']!r}")
    return Sample(
        id=_name(row),
        dataset="wemath",
        task=row["key"].rpartition("_")[0] + ("_multi" if "multi" in row["key"] else "_single"),
        problem=wording.front(wording.listed(row["question"], choices), 1),
        images=(pictures.load(row["image_path"], Path()),),
        answer=wording.text(row["answer"]),
        answer_type="choice",
        choices=choices,
        split="test",
        metadata={key: row[key] for key in ("ID", "key", "knowledge concept", "question number")}
        | {"files": pictures.names(row["image_path"])},
    )
