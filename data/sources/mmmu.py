"""MMMU: 11,550 college problems in 30 subjects, 900 of them for validation (2311.16502).

    Hugging Face:    SOURCE = MMMU/MMMU (a configuration per subject; a folder of it has
                     Accounting/validation-00000-of-00001.parquet, ...)

One row:

    {"id": "validation_Accounting_1", "question": "<image 1> Baxter Company has ... of:",
     "options": "['$63,020', '$58,410', '$71,320', '$77,490']", "explanation": "",
     "image_1": {"bytes": .., "path": ..}, "image_2": None, ..., "image_7": None,
     "img_type": "['Tables']", "answer": "B", "topic_difficulty": "Medium",
     "question_type": "multiple-choice", "subfield": "Financial Accounting"}

`options` is the text of a list. Tags `<image 2>` stand in questions and in options. An open answer
may be the text of a list: its first entry is the answer, `published` has all of them.
Left out: the test split, which has no answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import append_choices, parse_choices
from sapo_vl.data.readers.image_refs import load_image
from sapo_vl.data.readers.literals import parse_list
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, place_images
from sapo_vl.schema import Sample

SPLITS = ("dev", "validation")
SUBJECTS = (
    *("Accounting", "Agriculture", "Architecture_and_Engineering", "Art", "Art_Theory"),
    *("Basic_Medical_Science", "Biology", "Chemistry", "Clinical_Medicine", "Computer_Science"),
    *("Design", "Diagnostics_and_Laboratory_Medicine", "Economics", "Electronics"),
    *("Energy_and_Power", "Finance", "Geography", "History", "Literature", "Manage", "Marketing"),
    *("Materials", "Math", "Mechanical_Engineering", "Music", "Pharmacy", "Physics"),
    *("Psychology", "Public_Health", "Sociology"),
)
MOST_IMAGES = 7


def rows(source: str | Path, splits: Sequence[str] = SPLITS) -> Iterator[Sample | Dropped]:
    """Yield the problems of each subject; all are held out. A folder may have some subjects only.

    Raises:
        DataError: `source` has neither layout.
    """
    configs = configurations(source, SUBJECTS)
    records = chain.from_iterable(hub.rows(source, splits, config) for config in configs)
    yield from to_samples(records, _name, _sample)


def configurations(source: str | Path, known: Sequence[str]) -> Sequence[str | None]:
    """Return the configurations to read: all on the hub, those that a folder has.

    A folder without any of them holds the splits' files themselves: [None], which reads them once.
    """
    folder = Path(source)
    if not folder.is_dir():
        return known
    present = [c for c in known if (folder / c).is_dir() or (folder / "data" / c).is_dir()]
    return present or [None]


def _name(row: Row) -> str:
    return f"mmmu-{row['id']}"


def _sample(row: Row) -> Sample:
    return sample(row, "mmmu", _name(row), row["question"], numbered_images(row, MOST_IMAGES))


def numbered_images(row: Row, most: int) -> dict[int, bytes]:
    """Return the images of columns image_1, image_2, .. that hold one."""
    cells = {n: row.get(f"image_{n}") for n in range(1, most + 1)}
    return {n: load_image(cell) for n, cell in cells.items() if cell is not None}


def sample(row: Row, dataset: str, name: str, question: str, images: dict[int, bytes]) -> Sample:
    """Return the sample of a row of MMMU or MMMU-Pro; its tags become image marks."""
    choices = parse_choices(row["options"])
    answer, accepted = cell_text(row["answer"]), row["answer"]
    if not choices and answer.startswith("["):
        accepted = [str(text) for text in parse_list(answer)]
        answer = accepted[0]
    placed = place_images(append_choices(question, choices), images)
    published: Published = {
        "problem_id": row["id"],
        "answer": accepted,
        "question": question,
        "choices": [str(choice) for choice in parse_list(row["options"])],
        "question_type": "multi_choice" if choices else "free_form",
        "image_numbers": list(placed.numbers),
        "tables": {
            "category": re.sub(r"^[a-z]+_|_\d+$", "", row["id"]),
            "topic_difficulty": row.get("topic_difficulty"),
        },
    }
    return Sample(
        id=name,
        dataset=dataset,
        task=row.get("subfield") or row.get("subject") or row["id"].split("_")[1],
        problem=placed.text,
        images=placed.images,
        answer=answer,
        answer_type="choice" if choices else gold_type(answer),
        choices=choices,
        split="test",
        metadata={
            "split": row["split"],
            "img_type": row.get("img_type"),
            "published": published,
        },
    )
