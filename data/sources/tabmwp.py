"""TabMWP: 38,431 word problems on tables, read as images (2209.14610; CC BY-NC-SA 4.0).

    original layout: SOURCE/data/tabmwp/problems_train.json (also dev, test, test1k),
                     SOURCE/data/tabmwp/tables/16.png

One row, an entry of an object by "462":

    {"question": "Brenda purchased 1.1 pounds of coarse gravel. What was the total cost?",
     "choices": null, "answer": "3.30", "unit": "$", "table_title": null,
     "table": "fine gravel | $2 per lb\\n..", "table_for_pd": {..}, "row_num": 6, "column_num": 2,
     "solution": "Find the cost ..", "ques_type": "free_text", "ans_type": "decimal_number",
     "grade": 6, "split": "test"}

test1k is a part of test; a problem that is in both is read once. Left out: the table as text, which
would make the image redundant, and the human solution. No hub has the data set in this form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers.choices import append_choices, choice_letter
from sapo_vl.data.readers.image_refs import SourceFile, file_names, load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

SPLITS = ("train", "dev", "test1k", "test")


def rows(source: str | Path, splits: Sequence[str] = SPLITS) -> Iterator[Sample | Dropped]:
    """Yield every problem of `splits` once; dev and test are held out.

    Raises:
        DataError: `source` has none of the files.
    """
    folder = Path(source) / "data" / "tabmwp"
    files = [file for s in splits if (file := folder / f"problems_{s}.json").is_file()]
    if not files:
        raise DataError(f"tabmwp: {source} has no data/tabmwp/problems_{{{','.join(splits)}}}.json")
    yield from to_samples(_local(files), _name, _sample)


def _name(row: Row) -> str:
    return f"tabmwp-{row['id']}"


def _sample(row: Row) -> Sample:
    choices, answer_text = tuple(row["choices"] or ()), cell_text(row["answer"])
    question = row["question"] + (f" (Unit: {row['unit']})" if row["unit"] else "")
    kind, answer = gold_type(answer_text), answer_text
    if choices:
        kind, question = "choice", append_choices(question, choices)
        answer = choice_letter(answer_text, choices) or ""
        if not answer:
            raise DataError(f"the answer is none of the choices: {answer_text!r}; {choices}")
    published: Published = {
        "problem_id": str(row["id"]),
        "answer": row["answer"],
        "question": row["question"],
        "choices": list(choices),
        "question_type": row["ques_type"],
        "answer_type": row["ans_type"],
        "unit": row["unit"],
        "tables": {"grade": row["grade"]},
    }
    return Sample(
        id=_name(row),
        dataset="tabmwp",
        task=row["ans_type"],
        problem=prepend_marks(question, 1),
        images=(load_image(row["image"]),),
        answer=answer,
        answer_type=kind,
        choices=choices,
        unit=row["unit"],
        split="train" if row["split"] == "train" else "test",
        metadata={
            "split": row["split"],
            "published": published,
            "files": file_names(row["image"]),
        },
    )


def _local(files: list[Path]) -> Iterator[Row]:
    seen: set[str] = set()
    for file in files:
        for row in read_rows(file):
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row | {"image": SourceFile(file.parent / "tables", f"{row['id']}.png")}
