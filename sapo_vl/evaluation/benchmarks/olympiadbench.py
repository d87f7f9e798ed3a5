"""OlympiadBench (He et al., 2402.14008): open-ended olympiad problems; rule judge of OpenBMB.

Prompt: the repository's, with the sentence for the answer's type and the box. The judge
(olympiad_judge.py) splits gold and answer at top-level commas, writes out \\pm and matches the
parts in any order: as text, numbers within the item's precision, intervals, expressions, equations.

Oddities kept: a percentage may be written as its hundredth or its hundredfold. Stricter and beside
it: `verified`, the training verifier. Left out: theorem proofs, which have no final answer.

    Hugging Face:    Hothan/OlympiadBench (parquet), the OE_ (open-ended) configurations
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import olympiad_judge, sources, training_verifier
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, Extraction, Judgement, Problem, Row
from sapo_vl.rewards.parsing.extract import joined_boxes, last_box
from sapo_vl.schema import Outcome

_MARKS = re.compile(r"<image_(\d+)>")
_TYPES = {
    "Numerical": "a numerical value",
    "Expression": "an expression",
    "Equation": "an equation",
    "Interval": "an interval",
    "Tuple": "a tuple",
}


def problems(source: Path) -> Iterator[Problem]:
    """Yield the English open-ended problems that are there."""
    folder = sources.find(source, "olympiadbench", ["**/OE_*.parquet"], "Hothan/OlympiadBench")
    columns = ["id", "question", "final_answer", "subject", "is_multiple_answer"]
    for row in sources.read_parquet(folder, columns, "OE_*en*"):
        name = f"olympiadbench {row['id']}"
        kind, unit = row.get("answer_type") or "", row.get("unit") or ""
        ask = f"The answer of The problem should be {_TYPES[kind]}. " if kind in _TYPES else ""
        many = bool(row["is_multiple_answer"])
        form = "multiple answers connected with commas" if many else "answer"
        tail = " (unit)" if unit else ""
        intro = (
            f"The following is an open-ended problem from an International {row['subject']} "
            f"competition. {ask}Please calculate the answer according to the given requirements "
            "and the information provided. Please use LaTeX format to represent the variables and "
            "formulas used in the solution process and results. Please end your solution with "
            f'"So the final answer is \\boxed{{{form}}}{tail}." and give the result explicitly'
        )
        images = {
            str(i): sources.embedded(row[f"image_{i}"], name)
            for i in range(1, 10)
            if row.get(f"image_{i}")
        }
        text = "\n".join(t for t in (intro, row.get("context"), row["question"]) if t)
        prompt, shown = sources.place(text, _MARKS, images)
        yield Problem(
            id=str(row["id"]),
            prompt=prompt,
            images=shown,
            gold=row["final_answer"],
            question=row["question"],
            answer_type=kind,
            unit=unit or None,
            meta={
                "subject": row["subject"],
                "subfield": row.get("subfield"),
                "error": row.get("error"),
            },
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the inside of the last box, or of several boxes of the last line."""
    return Extraction(joined_boxes(row.text) or last_box(row.text).answer)


def judge(row: Row, value: Any) -> Judgement:
    """Apply the rule judge against each accepted gold."""
    if not value:
        return Judgement(False, "no box")
    golds = row.gold if isinstance(row.gold, list) else [row.gold]
    gold = ", ".join(str(part).strip("$ ") for part in golds)
    precision = olympiad_judge.precision(row.meta.get("error"))
    correct = olympiad_judge.equal(row, gold, str(value), precision)
    strict = training_verifier.equal_texts(row, gold, str(value)).outcome is Outcome.CORRECT
    return Judgement(correct, f"{str(value)[:80]!r} against {gold[:80]!r}", {"verified": strict})


BENCHMARK = Benchmark(
    "olympiadbench", "OlympiadBench (open-ended)", problems, extract, judge,
    tables=("subject", "subfield", "answer_type"),
)  # fmt: skip
