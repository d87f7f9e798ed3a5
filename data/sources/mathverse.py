"""MathVerse: 788 diagram problems in six versions each (Zhang et al., 2403.14624; MIT licence).

    original layout: SOURCE/data/testmini.json with SOURCE/images/, SOURCE/data/
                     testmini_text_only.json, and the website's visualizer/data/mv_data_public.js
    Hugging Face:    SOURCE = AI4Math/MathVerse

One row of testmini.json, and one of the website's public subset:

    {"sample_index": "3421", "problem_index": "685", "problem_version": "Text Dominant",
     "question": "A soft drink can has a height ..", "image": "images_version_1-4/image_685.png",
     "answer": "14", "question_type": "free-form", "metadata": {"subject": ..}, ..}
    {"pid": "33", "question": "On the following unit circle, ..", "image": "33.png",
     "choices": ["A:$\\tan (\\pi+\\theta)$", ..], "answer": "C\\nD", "metadata": {..}, ..}

A row of version "Vision Only" has its whole question in the image. Left out:
output_templates/, which holds model outputs for rows of testmini.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import choice_letters, split_choices
from sapo_vl.data.readers.image_refs import SourceFile, file_names, load_images
from sapo_vl.data.readers.json_layouts import json_records
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import QUESTION_IN_IMAGE, cell_text, gold_type, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

SPLITS = ("testmini",)
WEBSITE = "visualizer/data/mv_data_public.js"


def rows(source: str | Path, *, one_release: bool = False) -> Iterator[Sample | Dropped]:
    """Yield all versions of all problems, which are all held out.

    With `one_release` the website's subset, where it is there, is all that is read: its problems
    are in testmini too, under other ids.

    Raises:
        DataError: `source` has none of the layouts.
    """
    folder = Path(source)
    files = [file for file in _READERS if (folder / file).is_file()]
    if one_release and WEBSITE in files:
        files = [WEBSITE]
    local = chain.from_iterable(_READERS[file](folder, folder / file) for file in files)
    records = local if files else hub.rows(source, SPLITS, "testmini")
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"mathverse-{row.get('part', '')}{row['sample_index']}"


def _sample(row: Row) -> Sample:
    given = row.get("choices") or ()
    choices = split_choices(
        "\n".join(given) if given else row["question"].rpartition("Choices:")[2]
    )
    answer = cell_text(row["answer"])
    if choices or "multi" in row["question_type"]:
        answer = answer.strip("()")
    kind = "choice" if choices else gold_type(answer)
    several = choice_letters(answer, choices)
    if several:
        answer, kind = several, "multi_choice"
    question = cell_text(row["question"]) or QUESTION_IN_IMAGE
    images = load_images(row["image"])
    metadata, versions = row["metadata"], ("problem_version", "problem_index")
    published: Published = {
        "problem_id": str(row["sample_index"]),
        "answer": row["answer"],
        "question": row["question"],
        "question_type": row["question_type"],
    }
    if row.get("part") == "web-":
        published["question_type"] = "multi-choice" if given else "free-form"
        published["choice_text"] = "\n".join(given)
        published["tables"] = {
            "subject": metadata["subjects"],
            "subfield": metadata["subfields"],
            "problem_version": row["problem_version"],
        }
    else:
        published["query"] = row.get("query_cot")
        published["tables"] = metadata | {key: row[key] for key in versions}
    return Sample(
        id=_name(row),
        dataset="mathverse",
        task=metadata.get("subject") or metadata["subjects"],
        problem=prepend_marks("\n".join((question, *given)), len(images)),
        images=images,
        answer=answer,
        answer_type=kind,
        choices=choices,
        precision=row.get("precision"),
        unit=row.get("unit"),
        split="test",
        metadata={"published": published, "files": file_names(row["image"])},
    )


def _testmini(folder: Path, file: Path) -> Iterator[Row]:
    return rows_with_image(file, "image", folder / "images")


def _text_only(folder: Path, file: Path) -> Iterator[Row]:
    for row in read_rows(file):
        yield row | {"part": "text-", "image": None}


def _website(folder: Path, file: Path) -> Iterator[Row]:
    _, _, text = file.read_text(encoding="utf-8").partition("=")
    try:
        content = json.loads(text.strip().rstrip(";"))
    except ValueError as error:
        raise DataError(f"{file}: no `name = JSON`: {error}") from error
    images = folder / "visualizer" / "images"
    for row in json_records(content, file):
        yield row | {
            "part": "web-",
            "sample_index": row.get("pid"),
            "problem_version": (row.get("metadata") or {}).get("problem_version"),
            "image": SourceFile(images, row["image"]) if row.get("image") else None,
        }


_READERS = {
    "data/testmini.json": _testmini,
    "data/testmini_text_only.json": _text_only,
    WEBSITE: _website,
}
