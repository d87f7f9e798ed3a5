"""MathVista: 6,141 visual maths problems from 31 sources (Lu et al., 2310.02255; CC BY-SA 4.0).

    original layout: SOURCE/[data/]testmini.json, SOURCE/[data/]images/1.jpg
    Hugging Face:    SOURCE = AI4Math/MathVista

One row:

    {"pid": "1", "question": "When a spring does work on an object, ...", "image": "images/1.jpg",
     "choices": null, "unit": null, "precision": 1.0, "answer": "1.2", "question_type": "free_form",
     "answer_type": "float", "metadata": {"category": "math-targeted-vqa", "grade": "high school",
     "task": "textbook question answering", ...}, "query": "Hint: Please answer the question ..."}

The answer of a multiple choice problem is its letter; the text that the source has in its place is
in `published`, with `query`, the official prompt. Left out: the split test, whose answers are not
public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import append_choices, choice_letter
from sapo_vl.data.readers.image_refs import Place, file_names, load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import cell_text, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

SPLITS = ("testmini",)
_KINDS = {"integer": "number", "float": "number", "list": "tuple"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the problems of testmini, which are all held out.

    Raises:
        DataError: `source` has neither layout.
    """
    records = hub.rows(source, SPLITS)
    for folder in (Path(source), Path(source) / "data"):
        if (folder / "testmini.json").is_file():
            local = read_rows(folder / "testmini.json")
            place = Place(folder, folder)
            records = (row | {"decoded_image": row["image"], "place": place} for row in local)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"mathvista-{row['pid']}"


def _sample(row: Row) -> Sample:
    choices, answer_text = tuple(row["choices"] or ()), cell_text(row["answer"])
    answer, kind = answer_text, _KINDS.get(row["answer_type"], "text")
    question = row["question"] + (f" (Unit: {row['unit']})" if row["unit"] else "")
    if choices:
        kind, question = "choice", append_choices(question, choices)
        answer = choice_letter(answer_text, choices) or ""
        if answer_text and not answer:
            raise DataError(f"the answer is none of the choices: {answer_text!r}; {choices}")
    precision = None if row["precision"] is None else int(float(row["precision"]))
    published: Published = {
        "problem_id": str(row["pid"]),
        "answer": row["answer"],
        "question": row["question"],
        "choices": list(choices),
        "question_type": row["question_type"],
        "answer_type": row["answer_type"],
        "precision": precision,
        "unit": row["unit"],
        "query": row["query"],
        "tables": dict(row["metadata"]),
    }
    return Sample(
        id=_name(row),
        dataset="mathvista",
        task=row["metadata"].get("task") or "math",
        problem=prepend_marks(question, 1),
        images=(load_image(row["decoded_image"], row.get("place")),),
        answer=answer,
        answer_type=kind,
        choices=choices,
        precision=precision,
        unit=row["unit"],
        split="test",
        metadata={"published": published, "files": file_names(row["image"])},
    )
