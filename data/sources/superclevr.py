"""Super-CLEVR: rendered scenes of vehicles with drawn questions (Li et al., 2212.00259; BSD).

    original layout: SOURCE/output/superCLEVR_questions_5.json (and others superCLEVR_questions_*),
                     SOURCE/output/images/superCLEVR_new_000000.png
    R1-V's subset:   SOURCE/r1v_prompts (or src/eval/prompts)/superclevr_test200_counting_problems
                     .jsonl, images as named there; read by `r1v_rows`

One question, and one line of R1-V's 200 counting questions:

    {"split": "new", "image_filename": "superCLEVR_new_000000.png", "image_index": 0,
     "question": "Is the number of gray bicycles the same as the number of cyan metallic minivans?",
     "answer": false, "template_filename": "compare_integer.json", "question_family_index": 0,
     "question_index": 0}
    {"image_path": "./images/superCLEVR_new_025000.png", "question": "How many different items are
     there in the image?", "ground_truth": 4}

True and false become yes and no. The task is the template's name; "count" alone is kept by
`sapo-vl data filter --answer-types count`. Left out: programs, scenes, and CLEVR's own layout where
it differs (`prepare generic` reads it).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers.image_refs import SourceFile, file_names, load_image
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row, read_jsonl, read_rows
from sapo_vl.data.readers.text import prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

R1V_FOLDERS = ("*prompts", "src/*/*prompts")
QUESTIONS = "superCLEVR_questions*.json"
R1V_FILE = "superclevr_test200_counting_problems.jsonl"


def rows(
    source: str | Path, questions: str = QUESTIONS, *, only_counts: bool = False
) -> Iterator[Sample | Dropped]:
    """Yield the questions of the files that match `questions`, in the files' order.

    `only_counts` leaves out questions whose answer is not a whole number.

    Raises:
        DataError: `source` has no such file.
    """
    files = sorted((Path(source) / "output").glob(questions))
    if not files:
        raise DataError(f"superclevr: {source} has no output/{questions}")
    records = (row for row in _local(files) if not only_counts or type(row["answer"]) is int)
    yield from to_samples(records, _name, _sample)


def r1v_rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield R1-V's counting questions, which are all held out.

    Raises:
        DataError: `source` has no such file.
    """
    yield from to_samples(r1v_records(source, R1V_FILE), _r1v_name, _r1v_sample)


def r1v_records(source: str | Path, name: str) -> Iterator[Row]:
    """Yield the lines of one of R1-V's prompt files, numbered, with the paths of their images.

    Raises:
        DataError: `source` has no such file.
    """
    folder = Path(source)
    files = [p for parent in R1V_FOLDERS for p in folder.glob(f"{parent}/{name}")]
    if not files:
        raise DataError(f"{folder} has no {R1V_FOLDERS[0]}/{name}")
    for number, (_, row) in enumerate(read_jsonl(files[0])):
        yield row | {"number": number, "image": SourceFile(folder, row["image_path"])}


def _r1v_name(row: Row) -> str:
    return f"superclevr-r1v-{Path(row['image_path']).stem}"


def _r1v_sample(row: Row) -> Sample:
    published: Published = {
        "problem_id": Path(row["image_path"]).stem,
        "answer": str(row["ground_truth"]),
        "question": row["question"],
        "answer_type": "integer",
    }
    return Sample(
        id=_r1v_name(row),
        dataset="superclevr",
        task="count",
        problem=prepend_marks(row["question"], 1),
        images=(load_image(row["image"]),),
        answer=str(row["ground_truth"]),
        answer_type="count",
        split="test",
        metadata={"published": published, "files": [row["image_path"]]},
    )


def _name(row: Row) -> str:
    return f"superclevr-{row['part']}-{row['question_index']}"


def _sample(row: Row) -> Sample:
    answer = row["answer"]
    if isinstance(answer, bool):
        answer = "yes" if answer else "no"
    published: Published = {
        "problem_id": f"{row['image_index']}-{row['question_index']}",
        "answer": str(answer),
        "question": row["question"],
        "answer_type": "integer" if isinstance(answer, int) else None,
    }
    return Sample(
        id=_name(row),
        dataset="superclevr",
        task=Path(row["template_filename"]).stem,
        problem=prepend_marks(row["question"], 1),
        images=(load_image(row["image"]),),
        answer=str(answer),
        answer_type="count" if isinstance(answer, int) else "text",
        metadata={
            "family": row["question_family_index"],
            "published": published,
            "files": file_names(row["image"]),
        },
    )


def _local(files: list[Path]) -> Iterator[Row]:
    for file in files:
        part = file.stem.removeprefix("superCLEVR_questions").strip("_")
        for row in read_rows(file):
            image = SourceFile(file.parent / "images", row["image_filename"])
            yield row | {"part": part, "image": image}
