"""DynaMath: 501 seed problems in ten drawn variants each (Zou et al., 2411.00836; MIT licence).

    original layout: SOURCE/samples and result/10trials/trial1/dataset.json, .../image/image21.png
    Hugging Face:    SOURCE = DynaMath/DynaMath_Sample (splits sample_variant1 .. sample_variant10)

One row of a trial, an entry of an object by "78":

    {"question": "Is the function differentiable at x = 0? choice: (A) Yes (B) No", "answer": "A",
     "image": "image/image78.png", "answer_type": "multiple choice",
     "subject": "analytic geometry", "level": "undergraduate"}

`published` has the seed problem as "problem_id" and the "variant", for the worst-case accuracy. A
float counts to three decimals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.choices import split_choices
from sapo_vl.data.readers.image_refs import file_names, load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.schema import Sample

VARIANTS = range(1, 11)
PRECISION = 3


def rows(source: str | Path, *, by_problem: bool = False) -> Iterator[Sample | Dropped]:
    """Yield variant 1 of all problems, then variant 2, ...; all are held out.

    `by_problem` yields the variants of a problem together instead, so that a limit keeps them.

    Raises:
        DataError: `source` has neither layout.
    """
    trials = [p for v in VARIANTS if (p := _trial(Path(source), v)).is_file()]
    records = chain.from_iterable(map(_local, trials)) if trials else _from_hub(source)
    if by_problem:
        variants: dict[Any, list[Row]] = defaultdict(list)
        for row in records:
            variants[row["id"]].append(row)
        records = chain.from_iterable(variants.values())
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"dynamath-{row['id']}-v{row['variant']}"


def _sample(row: Row) -> Sample:
    answer, choices = cell_text(row["answer"]), split_choices(row["question"])
    kind, precision = gold_type(answer), None
    if row["answer_type"] == "float":
        precision = PRECISION
    elif kind not in ("choice", "number", "tuple"):
        kind = "text"
    published: Published = {
        "problem_id": str(row["id"]),
        "variant": str(row["variant"]),
        "answer": str(row["answer"]),
        "question": row["question"],
        "answer_type": row["answer_type"],
        "tables": {"subject": row["subject"], "level": row["level"]},
    }
    return Sample(
        id=_name(row),
        dataset="dynamath",
        task=row["subject"],
        problem=prepend_marks(row["question"], 1),
        images=(load_image(row["image"]),),
        answer=answer,
        answer_type=kind,
        choices=choices if kind == "choice" else (),
        precision=precision,
        split="test",
        metadata={"published": published, "files": file_names(row["image"])},
    )


def _trial(folder: Path, variant: int) -> Path:
    return folder / "samples and result" / "10trials" / f"trial{variant}" / "dataset.json"


def _local(file: Path) -> Iterator[Row]:
    variant = int(file.parent.name.removeprefix("trial"))
    for row in rows_with_image(file, "image", file.parent):
        yield row | {"variant": variant}


def _from_hub(source: str | Path) -> Iterator[Row]:
    for row in hub.rows(source, [f"sample_variant{v}" for v in VARIANTS]):
        yield row | {
            "variant": int(row["split"].removeprefix("sample_variant")),
            "image": row["decoded_image"],
            "answer": row["ground_truth"],
            "level": row["knowledge_level"],
        }
