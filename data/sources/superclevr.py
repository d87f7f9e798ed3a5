"""Super-CLEVR: rendered scenes of vehicles with drawn questions (Li et al., 2212.00259; BSD).

    original layout: SOURCE/output/superCLEVR_questions_5.json (and others superCLEVR_questions_*),
                     SOURCE/output/images/superCLEVR_new_000000.png

One question:

    {"split": "new", "image_filename": "superCLEVR_new_000000.png", "image_index": 0,
     "question": "Is the number of gray bicycles the same as the number of cyan metallic minivans?",
     "answer": false, "template_filename": "compare_integer.json", "question_family_index": 0,
     "question_index": 0}

True and false become yes and no. The task is the template's name; "count" alone is kept by
`sapo-vl data filter --answer-types count`. Left out: programs, scenes, and CLEVR's own layout where
it differs (`prepare generic` reads it).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers.image_refs import file_names, load_image
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the questions of all files, in the files' order.

    Raises:
        DataError: `source` has no such file.
    """
    files = sorted((Path(source) / "output").glob("superCLEVR_questions*.json"))
    if not files:
        raise DataError(f"superclevr: {source} has no output/superCLEVR_questions*.json")
    yield from to_samples(_local(files), _name, _sample)


def _name(row: Row) -> str:
    return f"superclevr-{row['part']}-{row['question_index']}"


def _sample(row: Row) -> Sample:
    answer = row["answer"]
    if isinstance(answer, bool):
        answer = "yes" if answer else "no"
    return Sample(
        id=_name(row),
        dataset="superclevr",
        task=Path(row["template_filename"]).stem,
        problem=prepend_marks(row["question"], 1),
        images=(load_image(row["picture"], Path()),),
        answer=str(answer),
        answer_type="count" if isinstance(answer, int) else "text",
        metadata={
            "family": row["question_family_index"],
            "files": file_names(row["picture"]),
        },
    )


def _local(files: list[Path]) -> Iterator[Row]:
    for file in files:
        part = file.stem.removeprefix("superCLEVR_questions").strip("_")
        for row in read_rows(file):
            picture = file.parent / "images" / row["image_filename"]
            yield row | {"part": part, "picture": picture}
