"""EMMA: 2,788 problems in maths, physics, chemistry and coding (Hao et al., 2501.05444).

    Hugging Face:    SOURCE = luckychao/EMMA or luckychao/EMMA-mini (a configuration per subject; a
                     folder of it has Math/test-00000-of-00001.parquet, ...)

One row:

    {"pid": "math_1", "question": "Which figure completes <image_1>?", "options": ["A", "B"],
     "answer": "B", "image_1": {"bytes": .., "path": ..}, ..., "image_5": None, "solution": "",
     "subject": "Math", "task": "", "category": "2D Transformation", "source": "..",
     "type": "Multiple Choice", "context": "You are given .."}

`context`, where present, precedes the question. Left out: the human `solution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from string import ascii_uppercase

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import append_choices, choice_letter
from sapo_vl.data.readers.literals import parse_list
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, place_images
from sapo_vl.data.sources.mmmu import configurations, numbered_images
from sapo_vl.schema import Sample

SUBJECTS = ("Math", "Physics", "Chemistry", "Coding")
MOST_IMAGES = 5


def rows(source: str | Path, subjects: Sequence[str] = SUBJECTS) -> Iterator[Sample | Dropped]:
    """Yield the problems of each subject; all are held out. A folder may have some subjects only.

    Raises:
        DataError: `source` has neither layout.
    """
    configs = configurations(source, subjects)
    records = chain.from_iterable(hub.rows(source, ("test",), config) for config in configs)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"emma-{row['pid']}"


def _sample(row: Row) -> Sample:
    choices, answer = tuple(parse_list(row["options"])), cell_text(row["answer"])
    text = "\n".join(filter(None, (row.get("context"), row["question"])))
    if list(choices) != list(ascii_uppercase[: len(choices)]):
        text = append_choices(text, choices)
    images = numbered_images(row, MOST_IMAGES)
    placed = place_images(text, images)
    published: Published = {
        "problem_id": row["pid"],
        "answer": row["answer"],
        "question": row["question"],
        "context": row.get("context"),
        "choices": [str(choice) for choice in choices],
        "question_type": "multi_choice" if choices else "free_form",
        "image_numbers": list(placed.numbers),
        "tables": {key: row.get(key) for key in ("subject", "category", "task")},
    }
    return Sample(
        id=_name(row),
        dataset="emma",
        task=row["subject"],
        problem=placed.text,
        images=placed.images,
        answer=choice_letter(answer, choices) or answer if choices else answer,
        answer_type="choice" if choices else gold_type(answer),
        choices=choices,
        split="test",
        metadata={"source": row.get("source"), "published": published},
    )
