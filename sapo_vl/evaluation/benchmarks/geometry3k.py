"""Geometry3K (Lu et al., 2105.04165) as it is used for RL: typed answers, no options shown.

Prompt: the problem and a box. Extraction: the last box. Judged as mathematics by the training
verifier against the value of the right choice (EasyR1 and verl use mathruler, which accepts less
and also wrong things; shared figures are in docs/verifiers.md). Beside it: `math_verify`.

    original layout: SOURCE/geometry3k/test/17/data.json and img_diagram.png (test, else train)
    Hugging Face:    hiyouga/geometry3k (parquet), split test
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import sources
from sapo_vl.evaluation.benchmarks.mmk12 import SUFFIX, extract_box, judge_maths
from sapo_vl.evaluation.benchmarks.protocol import (
    LETTERS,
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
)
from sapo_vl.schema import IMAGE_MARK

_SPLITS = ("test", "train")


def problems(source: Path) -> Iterator[Problem]:
    """Yield the test split."""
    patterns = [*(f"geometry3k/{s}/*/data.json" for s in _SPLITS), "**/test*.parquet"]
    folder = sources.find(source, "geometry3k", patterns, "hiyouga/geometry3k")
    for split in _SPLITS:
        files = sorted(folder.glob(f"geometry3k/{split}/*/data.json"), key=_number)
        for file in files:
            row = sources.read_json(file)
            name = f"geometry3k {row['id']}"
            yield _problem(
                str(row["id"]),
                IMAGE_MARK + row["annotat_text"],
                sources.picture(file.parent, "img_diagram.png", name),
                row["choices"][LETTERS.index(row["answer"])],
                {"goal": row["problem_type_goal"]},
            )
        if files:
            return
    rows = sources.read_parquet(folder, ["images", "problem", "answer"], "test*")
    for i, row in enumerate(rows):
        name = str(row.get("id", i))
        image = sources.embedded(row["images"][0], f"geometry3k {name}")
        yield _problem(name, row["problem"], image, row["answer"], {})


def _number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name), "") if name.isdigit() else (0, name)


def _problem(name: str, text: str, image: bytes, gold: str, meta: dict[str, Any]) -> Problem:
    question = text.replace(IMAGE_MARK, "")
    prompt = f"{IMAGE_MARK}{question}{SUFFIX}"
    return Problem(id=name, prompt=prompt, images=(image,), gold=gold, question=question, meta=meta)


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the inside of the last box."""
    return extract_box(row)


def judge(row: Row, value: Any) -> Judgement:
    """Compare as mathematics."""
    return judge_maths(row, value)


BENCHMARK = Benchmark("geometry3k", "Geometry3K", problems, extract, judge, tables=("goal",))
