"""MMK12: 15,616 school problems with checked free answers, for training (MM-Eureka, 2503.07365).

    original layouts: SOURCE/eval/k12/k12.json with eval/k12/images/ID.png (500 held-out problems);
                      SOURCE = train.jsonl of MM-Eureka's trainer
    Hugging Face:     SOURCE = FanqingM/MMK12 (columns id, question, answer, image, subject)

One row of k12.json, and one line of the trainer's JSONL (`message` is JSON in a string):

    {"id": "4d61..", "question": "Given the function $f\\left( x \\right)= ..",
     "answer": "$2\\sin (2x-\\frac{\\pi }{6})$", "image_path": "images/4d61...png"}
    {"id": "0", "message": "[{\\"role\\": \\"user\\", \\"content\\": [{\\"type\\": \\"image\\",
     \\"image\\": \\"file:///data/0.png\\"}, {\\"type\\": \\"text\\", \\"text\\": \\"..\\"}]}]",
     "answer": "6"}

The stored answer is without its $$ and last full stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers import chat, hub
from sapo_vl.data.readers.image_refs import Place, file_names, load_images
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import rows_with_image, to_samples
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks, strip_answer
from sapo_vl.schema import Sample

SPLITS = ("train", "test")


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every problem; those of eval/k12 and of the split test are held out.

    Raises:
        DataError: `source` has none of the layouts.
    """
    path = Path(source)
    if (path / "eval" / "k12" / "k12.json").is_file():
        records = _k12(path / "eval" / "k12" / "k12.json")
    elif path.suffix == ".jsonl":
        records = _trainer(path)
    else:
        records = hub.rows(source, SPLITS)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"mmk12-{row['id']}"


def _sample(row: Row) -> Sample:
    if "message" in row:
        asked = chat.last_question(row["message"])
        row = row | {"question": asked.text, "image": asked.image_refs}
    images = load_images(row["image"], row.get("place"))
    answer = strip_answer(cell_text(row["answer"]))
    published: Published = {
        "problem_id": str(row["id"]),
        "answer": row["answer"],
        "question": row["question"],
    }
    return Sample(
        id=_name(row),
        dataset="mmk12",
        task=row.get("subject") or "math",
        problem=prepend_marks(row["question"], len(images)),
        images=images,
        answer=answer,
        answer_type=gold_type(answer),
        split=row["split"],
        metadata={"published": published, "files": file_names(row["image"])},
    )


def _k12(file: Path) -> Iterator[Row]:
    for row in rows_with_image(file, "image_path", file.parent):
        yield row | {"split": "test"}


def _trainer(file: Path) -> Iterator[Row]:
    for row in read_rows(file):
        yield row | {"place": Place(file.parent, file.parent), "split": "train"}
