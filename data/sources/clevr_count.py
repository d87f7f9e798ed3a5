"""CLEVR counting: 70,000 rendered scenes of R1-V and CoGenT, for training (R1-V; CC BY 4.0).

    Hugging Face:    SOURCE = leonardPKU/clevr_cogen_a_train,
                     MMInstruction/Clevr_CoGenT_TrainA_70K_Complex (also ValA, ValB) or
                     BUAADreamer/clevr_count_70k, or a folder of their parquet files

One row of the first two, and of the third:

    {"image": {"bytes": .., "path": ..}, "problem": "How many different items are there in the
     image?", "solution": "<answer> 3 </answer>"}
    {"images": [{"bytes": .., "path": ..}], "problem": "<image>How many ..?", "answer": "3"}

`answered` reads this form for geoqa and open_r1 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.image_refs import load_images
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import (
    answer_in_tags,
    cell_text,
    gold_type,
    prepend_marks,
    strip_answer,
)
from sapo_vl.schema import Sample

SPLITS = ("train",)


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every scene's question.

    Raises:
        DataError: `source` has neither layout.
    """
    yield from answered(source, "clevr_count", task="count", answer_type="count")


def answered(source: str | Path, dataset: str, **fields: Any) -> Iterator[Sample | Dropped]:
    """Yield the samples of rows with an image, a problem and a solution in answer tags.

    `fields` are fields of Sample with the same value for every row. Rows have no ids and are
    numbered.

    Raises:
        DataError: `source` has neither layout.
    """

    def sample(row: Row) -> Sample:
        images = load_images(row["images"] if "images" in row else row["image"])
        solution = row["solution"] if "solution" in row else row["answer"]
        answer = strip_answer(answer_in_tags(cell_text(solution)))
        constant = {"answer_type": gold_type(answer)} | fields
        return Sample(
            id=row["name"],
            dataset=dataset,
            problem=prepend_marks(row["problem"], len(images)),
            images=images,
            answer=answer,
            metadata={key: row[key] for key in ("original_question",) if key in row},
            **constant,
        )

    numbered = (
        row | {"name": f"{dataset}-{number}"} for number, row in enumerate(hub.rows(source, SPLITS))
    )
    yield from to_samples(numbered, lambda row: row["name"], sample)
