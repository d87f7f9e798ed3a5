"""SuperCLEVR counting as R1-V evaluates it (Deep-Agent/R1-V, src/eval): 200 counting questions.

Prompt: the question and R1-V's tags. Extraction: the first `<answer>` with digits alone.

Oddity kept: the first tag counts, not the last. Other rule: `last_tag`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.sources import superclevr
from sapo_vl.evaluation.benchmarks.geoqa import prompt
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
)
from sapo_vl.evaluation.benchmarks.rows import integer_gold, whole
from sapo_vl.rewards.verifiers.count import whole_number
from sapo_vl.schema import Sample

MAX_DIGITS = 4000  # of the longest integer that Python parses
_TAG = re.compile(r"<answer>\s*(\d+)\s*</answer>")
_R1V_FILES = tuple(f"{folder}/{superclevr.R1V_FILE}" for folder in superclevr.R1V_FOLDERS)
_QUESTIONS = "superCLEVR_questions_5.json"


def rows(folder: Path) -> Iterator[Sample | Dropped]:
    """Yield R1-V's questions where their images are, else Super-CLEVR's own counting questions."""
    if any(next(folder.glob(pattern), None) for pattern in _R1V_FILES):
        first = next(superclevr.r1v_records(folder, superclevr.R1V_FILE), None)
        if first is not None and (first["image"].folder / first["image"].name).is_file():
            return superclevr.r1v_rows(folder)
    return superclevr.rows(folder, _QUESTIONS, only_counts=True)


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the first tagged whole number."""
    match = _TAG.search(response.text)
    return ExtractedAnswer(int(match[1][:MAX_DIGITS]) if match else None)


def judge(response: Response, value: Any) -> Judgement:
    """Compare as whole numbers."""
    expected = whole(str(response.answer))
    tags = _TAG.findall(response.text)
    last = bool(tags) and int(tags[-1][:MAX_DIGITS]) == expected
    number = None if value is None else whole_number(str(value))
    correct = number is not None and number == expected
    return Judgement(correct, f"{value} against {expected}", {"last_tag": last})


BENCHMARK = Benchmark(
    name="superclevr",
    title="SuperCLEVR counting (R1-V)",
    rows=rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=integer_gold,
    files=(*_R1V_FILES, f"output/{_QUESTIONS}"),
)
