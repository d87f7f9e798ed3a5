"""DynaMath (Zou et al., 2411.00836): 501 seed questions in ten variants; DynaMath/DynaMath.

Prompt: the question and a guide for JSON with "solution" and "short answer". Judged by type: a
float within 0.001 (its first word, "x\u03c0" is x times pi), a one-letter choice by equality and a
longer one as part of the first three characters, a text as part of the answer.

Oddities kept: a text gold inside a longer answer counts ("not white" holds "white"). Stricter and
beside it: `exact_text`. The authors published verdicts without responses; rows that have only a
label keep it. Metrics: average accuracy, and worst case, the share of seed questions whose ten
variants are all right.

    original layout: SOURCE/samples and result/10trials/trial1/dataset.json and image/
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import sources
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    Scored,
    cell,
    tables,
)
from sapo_vl.rewards.parsing.extract import answer_part, final_answer
from sapo_vl.schema import IMAGE_MARK

_SHORT = re.compile(r'"short answer"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\n]+)')
_TRIALS = "samples and result/10trials/trial*/dataset.json"
_TYPES = {
    "multiple choice": "the corresponding choice option in the 'short answer' key, such as 'A', "
    "'B', 'C', or 'D'",
    "float": "a three-digit floating-point number in the 'short answer' key",
    "text": "the answer in the 'short answer' key",
}
_GUIDE = (
    "## Answer Instruction Please provide an answer to the question outlined above. Your response "
    "should adhere to the following JSON format, which includes two keys: 'solution' and 'short "
    "answer'. The 'solution' key can contain detailed steps, and the 'short answer' key holds "
)
_EXAMPLE = (
    'Example: {"solution": "[Detailed step-by-step explanation]", "short answer": '
    '"[Concise Answer]"}'
)
VARIANTS = 10


def problems(source: Path) -> Iterator[Problem]:
    """Yield question by question, each with its variants, so that a limit keeps them together."""
    folder = sources.find(source, "dynamath", [_TRIALS])
    files = sorted(folder.glob(_TRIALS), key=lambda p: int(p.parent.name.removeprefix("trial")))
    trials = {file: sources.read_json(file) for file in files}
    for name in dict.fromkeys(name for rows in trials.values() for name in rows):
        for file, rows in trials.items():
            if name in rows:
                yield _problem(name, file, rows[name])


def _problem(name: str, file: Path, row: dict[str, Any]) -> Problem:
    trial = file.parent.name.removeprefix("trial")
    where = f"dynamath {name}, trial {trial}"
    if row["answer_type"] not in _TYPES:
        raise DataError(f"{where}: answer_type {row['answer_type']!r} is not one of {[*_TYPES]}")
    return Problem(
        id=name,
        prompt=f"{IMAGE_MARK}## Question\n{row['question']}\n{_GUIDE}"
        f"{_TYPES[row['answer_type']]}.\n{_EXAMPLE}",
        images=(sources.picture(file.parent, row["image"], where),),
        gold=str(row["answer"]),
        question=row["question"],
        answer_type=row["answer_type"],
        variant=trial,
        meta={"subject": row["subject"], "level": row["level"]},
    )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return "short answer", else (as no protocol says) what a person would take for it."""
    text = answer_part(row.text) or ""
    found = _SHORT.findall(text)
    if not found:
        return Extraction(final_answer(row.text).answer, "no short answer key: own rule")
    value = found[-1].strip()
    try:
        return Extraction(str(json.loads(value)).strip())
    except ValueError:
        return Extraction(value.strip("\"' "))


def judge(row: Row, value: Any) -> Judgement:
    """Compare by the answer's type."""
    if not isinstance(value, str) or not value.strip():
        return Judgement(False, "no short answer")
    gold, value = str(row.gold).strip(), value.strip()
    if row.answer_type == "float":
        left, right = _number(gold), _number(value)
        close = left is not None and right is not None and abs(left - right) <= 0.001
        return Judgement(close, f"{value[:80]!r} against {gold!r}")
    low, want = value.lower(), gold.lower()
    if row.answer_type == "multiple choice":
        correct = low == want if len(value) == 1 else want in low[:3]
    else:
        correct = want in low
    return Judgement(correct, f"{value[:80]!r} against {gold!r}", {"exact_text": low == want})


def _number(text: str) -> float | None:
    text = text.split()[0] if text.split() else ""
    try:
        if text.endswith("π"):
            return (float(text[:-1]) if text[:-1] else 1.0) * math.pi
        return float(text)
    except ValueError:
        return None


def aggregate(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return worst-case accuracy, over all seed questions and by subject and level.

    With several samples per variant each sample counts as a seed question of its own.
    """
    seeds: dict[tuple[str, int], list[Scored]] = defaultdict(list)
    for item in scored:
        seeds[item.row.problem_id, item.row.sample].append(item)
    worst = [
        Scored(group[0].row, group[0].extraction, Judgement(all(i.correct for i in group), ""))
        for group in seeds.values()
    ]
    complete = sum(len({i.row.variant for i in group}) == VARIANTS for group in seeds.values())
    by_group = tables(worst, ("subject", "level", "answer_type"))
    return {
        "worst_case": cell([item.correct for item in worst])
        | {"seed_questions_with_all_variants": complete},
        **{f"worst_case_{key}": values for key, values in by_group.items()},
    }


BENCHMARK = Benchmark(
    "dynamath", "DynaMath", problems, extract, judge,
    tables=("variant", "subject", "level", "answer_type"), aggregate=aggregate, labels=True,
)  # fmt: skip
