"""MMMU-Pro: 1,730 problems of MMMU with ten options, also as screenshots (Yue et al., 2409.02813).

    Hugging Face:    SOURCE = MMMU/MMMU_Pro (configurations "standard (10 options)" and "vision"; a
                     folder of it has these as folders with test-00000-of-00001.parquet)

One row of each configuration:

    {"id": "test_History_1", "question": "<image 1> ...", "options": "['..', '..', ...]",
     "image_1": {..}, ..., "answer": "C", "topic_difficulty": "Hard", "subject": "History"}
    {"id": "test_History_1", "image": {..}, "options": "['..', '..', ...]", "answer": "C",
     "subject": "History"}

A row of "vision" has its question and choices in the image. Left out: "standard (4
options)", the same problems with fewer options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.image_refs import load_image
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import QUESTION_IN_IMAGE
from sapo_vl.data.sources import mmmu
from sapo_vl.schema import IMAGE_MARK, Sample

STANDARD, VISION = "standard (10 options)", "vision"


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the problems with ten options, then the screenshots; all are held out.

    Raises:
        DataError: `source` has neither layout.
    """
    parts = mmmu.configurations(source, (STANDARD, VISION))
    yield from to_samples(chain.from_iterable(_part(source, p) for p in parts), _name, _sample)


def _name(row: Row) -> str:
    return f"mmmu_pro-{row['part'].split()[0]}-{row['id']}"


def _sample(row: Row) -> Sample:
    if row["part"] == STANDARD:
        images = mmmu.numbered_images(row, mmmu.MOST_IMAGES)
        sample = mmmu.sample(row, "mmmu_pro", _name(row), row["question"], images)
    else:
        images = {1: load_image(row["image"])}
        sample = mmmu.sample(row, "mmmu_pro", _name(row), "", images)
        sample = replace(sample, problem=f"{IMAGE_MARK}\n{QUESTION_IN_IMAGE}")
    published = sample.metadata["published"]
    published["variant"] = row["part"].split()[0]
    published["tables"] |= {"subject": row.get("subject"), "config": row["part"]}
    return replace(sample, metadata=sample.metadata | {"part": row["part"]})


def _part(source: str | Path, part: str | None) -> Iterator[Row]:
    for row in hub.rows(source, ("test",), part):
        yield row | {"part": part or (VISION if "image" in row else STANDARD)}
