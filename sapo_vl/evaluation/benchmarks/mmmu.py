"""MMMU (Yue et al., 2311.16502): 900 validation problems of college subjects; official rules.

Prompt: the question, the options as `(A) ...`, and the repository's closing sentence. Oddities:
mmmu_answer.py. Stricter and beside it: `no_random`, where a random choice is wrong.

    Hugging Face:    MMMU/MMMU (parquet), split validation
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import mmmu_answer, sources
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    lettered,
)

MARKS = re.compile(r"<image (\d+)>")
MULTIPLE = "Answer with the option's letter from the given choices directly."
OPEN = "Answer the question using a single word or phrase."
_LETTER_FORMS = ("({})", " {} ")


def problems(source: Path) -> Iterator[Problem]:
    """Yield the validation problems of all subjects."""
    folder = sources.find(source, "mmmu", ["**/validation*.parquet"], "MMMU/MMMU")
    columns = ["id", "question", "options", "answer", "question_type"]
    for row in sources.read_parquet(folder, columns, "validation*"):
        yield problem(row, "mmmu")


def problem(row: dict[str, Any], name: str) -> Problem:
    """Return the problem of a hub row with columns image_1 to image_7."""
    where = f"{name} {row['id']}"
    options = lettered(sources.literal_list(row["options"], where), where)
    images = {
        str(i): sources.embedded(row[f"image_{i}"], where)
        for i in range(1, 8)
        if row.get(f"image_{i}")
    }
    listed = "".join(f"({letter}) {text}\n" for letter, text in options.items())
    text = f"{row['question']}\n{listed}\n{MULTIPLE if options else OPEN}"
    prompt, shown = sources.place(text, MARKS, images)
    gold = row["answer"]
    if not options and isinstance(gold, str) and gold.startswith("["):
        gold = sources.literal_list(gold, where)
    return Problem(
        id=row["id"],
        prompt=prompt,
        images=shown,
        gold=gold,
        options=options,
        question=row["question"],
        question_type="multi_choice" if options else "free_form",
        meta={
            "category": re.sub(r"^[a-z]+_|_\d+$", "", row["id"]),
            "topic_difficulty": row.get("topic_difficulty"),
        },
    )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return a letter, or the list of predictions of an open answer."""
    if row.options:
        return mmmu_answer.choice(row, draw, _LETTER_FORMS)
    return Extraction(mmmu_answer.open_answers(row.text))


def judge(row: Row, value: Any) -> Judgement:
    """Compare a letter with the gold letter, predictions with the gold answers."""
    if row.options:
        return Judgement(value == row.gold, f"{value!r} against {row.gold!r}")
    if isinstance(value, str):
        value = mmmu_answer.normalise(value)
    correct = mmmu_answer.open_correct(row.gold, value or [])
    return Judgement(correct, f"{str(value)[:120]} against {row.gold!r}")


BENCHMARK = Benchmark(
    "mmmu", "MMMU (validation)", problems, extract, judge,
    tables=("category", "question_type", "topic_difficulty"),
)  # fmt: skip
