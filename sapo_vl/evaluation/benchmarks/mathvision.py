"""MathVision (Wang et al., 2402.14804): 3,040 test problems; protocol of mathllm/MATH-V.

Everything is a rule: `mathvision_answer.py` finds the answer, `equal` compares it with the gold
letter and with the text of the gold option: as lower-case text, then tuples element by element,
then as numbers with two decimals.

Oddities kept: two decimals, so 1/9 equals 10/91; the readable beginning of a text is its number
(latex_value.py). Stricter and beside it: `same_text`, equal as text.

    original layout: SOURCE/data/testmini.jsonl or test.jsonl, SOURCE/images/1.jpg
    Hugging Face:    MathLLMs/MathVision
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import sources
from sapo_vl.evaluation.benchmarks.latex_value import rounded
from sapo_vl.evaluation.benchmarks.mathvision_answer import find_answer
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    lettered,
)
from sapo_vl.schema import IMAGE_MARK

PROMPT = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a '
    'multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)
SPLITS = ("test", "testmini")  # test contains testmini


def problems(source: Path) -> Iterator[Problem]:
    """Yield test, or testmini where test is not there."""
    files = [*(f"data/{s}.jsonl" for s in SPLITS), *(f"**/{s}*.parquet" for s in SPLITS)]
    folder = sources.find(source, "mathvision", files, "MathLLMs/MathVision")
    local = [p for s in SPLITS if (p := folder / "data" / f"{s}.jsonl").is_file()]
    columns = ["id", "question", "options", "answer"]
    rows = (row for _, row in sources.read_jsonl(local[0])) if local else _parquet(folder, columns)
    for row in rows:
        name = f"mathvision {row['id']}"
        data = row.get("decoded_image")
        image = (
            sources.embedded(data, name) if data else sources.picture(folder, row["image"], name)
        )
        options = lettered(list(row["options"]), name)
        listed = "".join(f"({letter}) {text}\n" for letter, text in options.items())
        if [text.strip("()") for text in options.values()] == list(options):
            listed = ""
        question = row["question"].replace("<image1>", IMAGE_MARK, 1)
        lead = "" if IMAGE_MARK in question else IMAGE_MARK
        yield Problem(
            id=str(row["id"]),
            prompt=f"{lead}{PROMPT}{question}\n{listed}",
            images=(image,),
            gold=str(row["answer"]),
            options=options,
            question=row["question"],
            question_type="multi_choice" if options else "free_form",
            meta={"subject": row["subject"], "level": row["level"]},
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the official answer string."""
    return Extraction(find_answer(row.text))


def judge(row: Row, value: Any) -> Judgement:
    """Compare with the gold letter, then with the gold option's text."""
    answer = "" if value is None else str(value).strip()
    gold = str(row.gold)
    option = row.options.get(gold, "")
    correct = equal(gold, answer) or equal(option, answer)
    same_text = answer != "" and answer.lower() in (gold.lower(), option.lower().strip("$ "))
    return Judgement(correct, f"{answer[:80]!r} against {gold!r}", {"same_text": same_text})


def equal(gold: str, answer: str) -> bool:
    """Apply the official equality of two strings."""
    gold, answer = gold.lower(), answer.lower()
    if not gold.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if gold.strip() == answer.strip() or _elements(gold) == _elements(answer):
        return True
    left, right = rounded(gold), rounded(answer)
    return left is not None and left == right


def _elements(text: str) -> str:
    """Return a tuple or a list with its elements as numbers of two decimals."""
    if len(text) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    parts = text[1:-1].split(",")
    values = [part if _is_kept(part) else rounded(part) for part in parts]
    if len(parts) < 2 or None in values:
        return text
    return text[0] + ",".join(str(value) for value in values) + text[-1]


def _is_kept(part: str) -> bool:
    return "infty" in part or part in ("a", "-a")


def _parquet(folder: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    split = next(s for s in SPLITS if next(folder.glob(f"**/{s}*.parquet"), None))
    name = f"{split}-*" if next(folder.glob(f"**/{split}-*.parquet"), None) else split
    yield from sources.read_parquet(folder, columns, name)


BENCHMARK = Benchmark(
    "mathvision", "MathVision", problems, extract, judge,
    tables=("subject", "level", ("subject", "level")),
)  # fmt: skip
