"""OlympiadBench: open-ended olympiad problems in mathematics and physics (He et al., 2402.14008).

    Hugging Face:    SOURCE = Hothan/OlympiadBench (a configuration per kind of problem; a folder of
                     it has OE_MM_maths_en_COMP/OE_MM_maths_en_COMP.parquet, ..)

One row:

    {"id": 2231, "question": "Find x in <image_1>.", "final_answer": ["$3$"], "context": None,
     "subject": "Math", "subfield": "Geometry", "is_multiple_answer": False, "unit": None,
     "answer_type": "Numerical", "error": None, "image_1": {"bytes": .., "path": ..}, ..}

Configurations: OE is open-ended, MM has images, TO is text only. Only the English ones are read.
Left out: theorem proofs (TP), which have no final answer, and the human `solution`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.literals import parse_list
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row, read_parquet
from sapo_vl.data.readers.text import cell_text, gold_type, place_images, strip_answer
from sapo_vl.data.sources.mmmu import numbered_images
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

CONFIGS = (
    "OE_MM_maths_en_COMP",
    "OE_MM_physics_en_COMP",
    "OE_TO_maths_en_COMP",
    "OE_TO_physics_en_COMP",
)
MOST_IMAGES = 9


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield the English open-ended problems; all are held out. A folder may have some files only.

    Raises:
        DataError: `source` has neither layout.
    """
    folder = Path(source)
    if folder.is_dir():
        files = sorted(folder.rglob("OE_*en*.parquet"))
        if not files:
            raise DataError(f"olympiadbench: {folder} has no OE_*en*.parquet")
        records = chain.from_iterable(map(read_parquet, files))
    else:
        records = chain.from_iterable(hub.rows(source, ("train",), config) for config in CONFIGS)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"olympiadbench-{row['id']}"


def _sample(row: Row) -> Sample:
    images = numbered_images(row, MOST_IMAGES)
    text = "\n".join(part for part in (row.get("context"), row["question"]) if part)
    marked = place_images(text, images)
    answer = ", ".join(strip_answer(str(part)) for part in parse_list(row["final_answer"]))
    unit = cell_text(row.get("unit")) or None
    published: Published = {
        "problem_id": str(row["id"]),
        "answer": row["final_answer"],
        "question": row["question"],
        "context": row.get("context"),
        "answer_type": row.get("answer_type") or "",
        "unit": unit,
        "is_multiple_answer": bool(row["is_multiple_answer"]),
        "image_numbers": list(marked.numbers),
        "tables": {key: row.get(key) for key in ("subject", "subfield", "error")},
    }
    return Sample(
        id=_name(row),
        dataset="olympiadbench",
        task=row["subject"],
        problem=marked.text,
        images=marked.images,
        answer=answer,
        answer_type=gold_type(answer),
        unit=unit,
        split="test",
        metadata={"published": published},
    )
