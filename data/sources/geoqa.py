"""GeoQA-8K: 8,031 plane geometry problems with free answers, for training (R1-V's set of GeoQA).

    Hugging Face:    SOURCE = leonardPKU/GEOQA_R1V_Train_8K, or a folder of its parquet files
    R1-V's test set: SOURCE/r1v_prompts (or src/eval/prompts)/geoqa_test_prompts.jsonl, images as
                     named there; read by `r1v_rows`

One row, and one line of the test set's 754:

    {"image": {"bytes": .., "path": ..}, "problem": "As shown in the figure, in triangle ABC, ..
     then the size of angle CED is ()", "solution": "<answer> 140° </answer>"}
    {"image_path": "./Geo170K/images/test/0.png", "question": "As shown in the figure, ..",
     "ground_truth": "140°"}

Left out: GeoQA's choices, which this set does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers.image_refs import load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.data.sources.clevr_count import answered
from sapo_vl.data.sources.superclevr import r1v_records
from sapo_vl.schema import Sample

TEST_FILE = "geoqa_test_prompts.jsonl"


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every problem.

    Raises:
        DataError: `source` has neither layout.
    """
    yield from answered(source, "geoqa", task="plane geometry")


def r1v_rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the problems of R1-V's test set.

    Raises:
        DataError: `source` has no such file.
    """
    yield from to_samples(r1v_records(source, TEST_FILE), _name, _sample)


def _name(row: Row) -> str:
    return f"geoqa-test-{row['number']}"


def _sample(row: Row) -> Sample:
    published: Published = {
        "problem_id": str(row["number"]),
        "answer": row["ground_truth"],
        "question": row["question"],
        "answer_type": "latex_or_number",
    }
    answer = cell_text(row["ground_truth"])
    return Sample(
        id=_name(row),
        dataset="geoqa",
        task="plane geometry",
        problem=prepend_marks(row["question"], 1),
        images=(load_image(row["image"]),),
        answer=answer,
        answer_type=gold_type(answer),
        split="test",
        metadata={"published": published, "files": [row["image_path"]]},
    )
