"""We-Math (Qiao et al., 2407.01284): 1,740 questions in 525 groups; protocol of We-Math/We-Math.

Prompt: question, options and the format `<Thought process>: .. <Answer>: ..`. Answer: behind the
last "Answer", the first character when it is one of A to H. Metrics (wemath_metrics.py): accuracy
by number of knowledge points, and the four-dimensional IK, IG, CM, RM, strict and loose.

Oddity kept: no other way of naming a letter counts. Stricter is not offered, but beside it
`any_form`: the letter a person would take for the answer.

    original layout: SOURCE/data/testmini.json, SOURCE/data/2steps/image/1-1.png
    Hugging Face:    We-Math/We-Math (there image_path is the image)
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import rule_extraction, sources, wemath_metrics
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    Scored,
)
from sapo_vl.schema import IMAGE_MARK

PROMPT = (
    "Now, we require you to solve a multiple-choice math question. Please briefly describe your "
    "thought process and provide the final answer(option).\nQuestion: {}\nOption: {}\nRegarding "
    "the format, please answer following the template below, and be sure to include two <> "
    "symbols:\n<Thought process>: <<your thought process>> <Answer>: <<your option>>"
)
_OPTION = re.compile(r"(?:^|;)\s*([A-H])\.\s*")
_FILE = "data/testmini.json"


def problems(source: Path) -> Iterator[Problem]:
    """Yield testmini."""
    folder = sources.find(source, "wemath", [_FILE, "**/testmini*.parquet"], "We-Math/We-Math")
    columns = ["ID", "key", "question", "option", "answer", "image_path"]
    local = (folder / _FILE).is_file()
    rows = (
        sources.read_json(folder / _FILE)
        if local
        else sources.read_parquet(folder, columns, "testmini*")
    )
    for row in rows:
        name = f"wemath {row['ID']} {row['key']}"
        image = row["image_path"]
        data = (
            sources.picture(folder / "data", image, name)
            if local
            else sources.embedded(image, name)
        )
        concepts = row["knowledge concept"].split(";")
        yield Problem(
            id=row["ID"],
            prompt=IMAGE_MARK + PROMPT.format(row["question"], row["option"]),
            images=(data,),
            gold=row["answer"],
            options=options(row["option"]),
            question=row["question"],
            question_type="multi_choice",
            variant=row["key"],
            meta={"key": row["key"], "knowledge_concept": concepts},
        )


def options(text: str) -> dict[str, str]:
    """Split "A. 300; B. 400" into letters and texts."""
    parts = _OPTION.split(text)[1:]
    return {letter: option.strip() for letter, option in zip(parts[::2], parts[1::2], strict=True)}


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the official letter."""
    tail = re.sub(r"[><:.]", "", row.text.split("Answer")[-1].strip()).strip()
    return Extraction(tail[0] if tail and tail[0] in "ABCDEFGH" else None)


def judge(row: Row, value: Any) -> Judgement:
    """Compare with the gold letter."""
    anywhere = rule_extraction.letters(row) == [row.gold]
    return Judgement(value == row.gold, f"{value!r} against {row.gold!r}", {"any_form": anywhere})


def aggregate(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return S1 to S3 and the four-dimensional metrics; every sample has groups of its own."""
    rows = [
        (
            f"{i.row.problem_id}@{i.row.sample}",
            str(i.row.meta.get("key", i.row.variant)),
            bool(i.correct),
        )
        for i in scored
    ]
    return wemath_metrics.summary(rows)


BENCHMARK = Benchmark(
    "wemath", "We-Math (testmini)", problems, extract, judge, tables=("knowledge_concept",),
    aggregate=aggregate,
)  # fmt: skip
