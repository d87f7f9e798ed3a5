"""LogicVista: 448 logical reasoning problems in images (Xiao et al., 2407.04973; Apache-2.0).

    original layout: SOURCE/data/dataset.json, SOURCE/data/images/v1_287.png
    Hugging Face:    SOURCE = lscpku/LogicVista

One row, an entry of an object by "v1_287":

    {"imagename": "v1_287.png", "question": "Two FruitBars cost .. (A) True (B)False (C)Insufficient
     Information", "answer": "A", "reasoning": "Here are ..", "skill": ["deductive"],
     "broad_capability": ["ocr"], "specific_capability": ["common sense ocr"], "liscenced": "true"}

The question lists its choices, or the image does. A few answers have several letters ("A, C"). One
record of the original has no answer: it is left out unless `unanswered` is set. Left out too:
`reasoning` and links.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import choice_letters, split_choices
from sapo_vl.data.readers.image_refs import load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.schema import Sample

SPLITS = ("test",)


def rows(source: str | Path, *, unanswered: bool = False) -> Iterator[Sample | Dropped]:
    """Yield every problem; all are held out.

    `unanswered` keeps the record without an answer, which the official score counts.

    Raises:
        DataError: `source` has neither layout.
    """
    file = Path(source) / "data" / "dataset.json"
    if file.is_file():
        records = rows_with_image(file, "imagename", file.parent / "images")
    else:
        records = hub.rows(source, SPLITS)
    yield from to_samples(records, _name, partial(_sample, unanswered))


def _name(row: Row) -> str:
    return f"logicvista-{Path(row['imagename']).stem}"


def _sample(unanswered: bool, row: Row) -> Sample | Dropped:
    answer = cell_text(row["answer"])
    if not answer and not unanswered:
        return Dropped(_name(row), "the source has no answer to it", by_rule=True)
    several = choice_letters(answer)
    choices = split_choices(row["question"])
    published: Published = {
        "problem_id": str(row.get("id") or Path(row["imagename"]).stem),
        "answer": row["answer"],
        "question": row["question"],
        "question_type": "multi_choice",
        "answer_type": "letters",
        "tables": {
            "skill": row["skill"],
            "capability": row["broad_capability"],
            "specific_capability": row["specific_capability"],
        },
    }
    return Sample(
        id=_name(row),
        dataset="logicvista",
        task=row["skill"][0],
        problem=prepend_marks(row["question"], 1),
        images=(load_image(row["image"]),),
        answer=several or answer,
        answer_type="multi_choice" if several else gold_type(answer),
        choices=choices if answer in "ABCDEFGH"[: len(choices)] or several else (),
        split="test",
        metadata={"published": published, "files": [row["imagename"]]},
    )
