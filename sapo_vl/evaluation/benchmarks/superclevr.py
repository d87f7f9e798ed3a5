"""SuperCLEVR counting as R1-V evaluates it (Deep-Agent/R1-V, src/eval): 200 counting questions.

Prompt: the question and R1-V's tags. Extraction: the first `<answer>` with digits alone.

Oddity kept: the first tag counts, not the last. Stricter and beside it: `last_tag`.

    original layout: SOURCE/r1v_prompts (or src/eval/prompts)/superclevr_test200_counting_problems
                     .jsonl, images as named there; or SOURCE/output of Super-CLEVR itself, whose
                     counting questions are taken
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import sources
from sapo_vl.evaluation.benchmarks.geoqa import PROMPT
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    whole_gold,
)
from sapo_vl.rewards.verifiers.count import whole_number
from sapo_vl.schema import IMAGE_MARK

MAX_DIGITS = 4000  # Python reads no longer integer
_TAG = re.compile(r"<answer>\s*(\d+)\s*</answer>")
_NAME = "superclevr_test200_counting_problems.jsonl"
_FILES = (f"*prompts/{_NAME}", f"src/*/*prompts/{_NAME}")
_OWN = "output/superCLEVR_questions_5.json"


def problems(source: Path) -> Iterator[Problem]:
    """Yield R1-V's questions where their images are, else Super-CLEVR's own counting ones."""
    folder = sources.find(source, "superclevr", [*_FILES, _OWN])
    files = [path for pattern in _FILES for path in folder.glob(pattern)]
    rows = [row for _, row in sources.read_jsonl(files[0])] if files else []
    if rows and (folder / rows[0]["image_path"]).is_file():
        for row in rows:
            yield _problem(
                folder, row["image_path"], row["question"], row["ground_truth"],
                Path(row["image_path"]).stem,
            )  # fmt: skip
        return
    file = sources.find(folder, "superclevr", [_OWN]) / _OWN
    for row in sources.read_json(file)["questions"]:
        if isinstance(row["answer"], int) and not isinstance(row["answer"], bool):
            name = f"{row['image_index']}-{row['question_index']}"
            path = f"output/images/{row['image_filename']}"
            yield _problem(folder, path, row["question"], row["answer"], name)


def _problem(folder: Path, path: str, question: str, gold: int, name: str) -> Problem:
    return Problem(
        id=name,
        prompt=IMAGE_MARK + PROMPT.format(question),
        images=(sources.picture(folder, path, f"superclevr {name}"),),
        gold=str(gold),
        question=question,
        answer_type="integer",
    )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the first tagged whole number."""
    found = _TAG.search(row.text)
    return Extraction(int(found[1][:MAX_DIGITS]) if found else None)


def judge(row: Row, value: Any) -> Judgement:
    """Compare as whole numbers."""
    gold = whole_gold(row)
    tags = _TAG.findall(row.text)
    last = bool(tags) and int(tags[-1][:MAX_DIGITS]) == gold
    found = None if value is None else whole_number(str(value))
    return Judgement(found == gold, f"{value} against {gold}", {"last_tag": last})


BENCHMARK = Benchmark("superclevr", "SuperCLEVR counting (R1-V)", problems, extract, judge)
