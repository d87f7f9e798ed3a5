"""MathVista: 6,141 visual maths problems from 31 sources (Lu et al., 2310.02255; CC BY-SA 4.0).

    original layout: SOURCE/[data/]testmini.json, SOURCE/[data/]images/1.jpg
    Hugging Face:    SOURCE = AI4Math/MathVista

One row:

    {"pid": "1", "question": "When a spring does work on an object, ...", "image": "images/1.jpg",
     "choices": null, "unit": null, "precision": 1.0, "answer": "1.2", "question_type": "free_form",
     "answer_type": "float", "metadata": {"category": "math-targeted-vqa", "grade": "high school",
     "task": "textbook question answering", ...}, "query": "Hint: Please answer the question ..."}

The answer of a multiple choice problem is stored as its letter; the source's text of it lies in
the metadata as "gold", next to "query", the official prompt. Left out: the split test, whose
answers are not public.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.image_refs import file_names, load_image
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import append_choices, cell_text, choice_letter, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

SPLITS = ("testmini",)
_KINDS = {"integer": "number", "float": "number", "list": "tuple"}


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the problems of testmini, which are all held out.

    Raises:
        DataError: `source` has neither form.
    """
    found = hub.rows(source, SPLITS)
    for place in (Path(source), Path(source) / "data"):
        if (place / "testmini.json").is_file():
            found = rows_with_image(place / "testmini.json", "image", place, into="decoded_image")
    yield from to_samples(found, _name, _sample)


def _name(row: Row) -> str:
    return f"mathvista-{row['pid']}"


def _sample(row: Row) -> Sample:
    choices, gold = tuple(row["choices"] or ()), cell_text(row["answer"])
    answer, kind = gold, _KINDS.get(row["answer_type"], "text")
    question = row["question"] + (f" (Unit: {row['unit']})" if row["unit"] else "")
    if choices:
        kind, question = "choice", append_choices(question, choices)
        answer = choice_letter(gold, choices) or ""
        if gold and not answer:
            raise DataError(f"the gold answer is none of the choices: {gold!r}; {choices}")
    return Sample(
        id=_name(row),
        dataset="mathvista",
        task=row["metadata"]["task"],
        problem=prepend_marks(question, 1),
        images=(load_image(row["decoded_image"], Path()),),
        answer=answer,
        answer_type=kind,
        choices=choices,
        precision=None if row["precision"] is None else int(float(row["precision"])),
        unit=row["unit"],
        split="test",
        metadata=dict(row["metadata"])
        | {key: row[key] for key in ("question_type", "answer_type", "query")}
        | {"gold": gold, "files": file_names(row["image"])},
    )
