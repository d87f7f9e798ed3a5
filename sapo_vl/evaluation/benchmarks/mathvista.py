"""MathVista (Lu et al., 2310.02255): 1,000 testmini problems; protocol of lupantech/MathVista.

Prompt: the data's own `query`. Extraction: short rules, then an LLM reads the rest (GPT-4 in the
published results); without an endpoint `rule_extraction.py` reads it, and the result says so. The extraction
is then normalised by type and compared as text with the gold.

Oddities kept: the first "(x)" is taken for a letter; a choice that is no letter becomes the option
with the least edit distance, so an empty extraction picks the shortest option; a list is compared
as it is printed. The repository's code reads "5.0" as the integer 5 while most published labels
did not: that rule is `published_integers`. Stricter and beside it: `exact_option`, no nearest one.

    original layout: SOURCE/data/testmini.json, SOURCE/images/1.jpg
    Hugging Face:    AI4Math/MathVista, split testmini
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import rule_extraction, sources
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    lettered,
)
from sapo_vl.schema import IMAGE_MARK

_LETTER = re.compile(r"\(([a-zA-Z])\)")
_QUICK = re.compile(r'The answer is "(.*)"\.')


def problems(source: Path) -> Iterator[Problem]:
    """Yield testmini."""
    folder = sources.find(
        source, "mathvista", ["data/testmini.json", "**/testmini*.parquet"], "AI4Math/MathVista"
    )
    if (folder / "data" / "testmini.json").is_file():
        rows = iter(sources.read_json(folder / "data" / "testmini.json").values())
    else:
        rows = sources.read_parquet(folder, ["pid", "query", "answer"], "testmini*")
    for row in rows:
        name = f"mathvista {row['pid']}"
        data = row.get("decoded_image")
        yield Problem(
            id=str(row["pid"]),
            prompt=IMAGE_MARK + row["query"],
            images=(
                sources.embedded(data, name)
                if data
                else sources.picture(folder, row["image"], name),
            ),
            gold=row["answer"],
            options=lettered(row.get("choices"), name),
            question=row["question"],
            question_type=row["question_type"],
            answer_type=row["answer_type"],
            precision=None if row.get("precision") is None else int(row["precision"]),
            unit=row.get("unit"),
            meta=dict(row["metadata"]),
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Apply the official short rules in their order; what theirs asks GPT-4, a rule reads."""
    text = row.text
    if text == "":
        return Extraction("", "empty response")
    if row.question_type == "multi_choice" and text in row.options.values():
        return Extraction(text)
    for kind, read in (("integer", int), ("float", float)):
        if row.answer_type == kind:
            try:
                return Extraction(str(read(text)))
            except ValueError:
                pass
    if quick := _QUICK.search(text):
        return Extraction(quick[1])
    return Extraction(rule_extraction.short_answer(row), rule_extraction.IN_PLACE)


def judge(row: Row, value: Any) -> Judgement:
    """Normalise and compare with the gold, by the repository's integer rule."""
    found = normalise(row, value)
    correct = found is not None and found == str(row.gold)
    others = {"published_integers": correct, "exact_option": correct}
    if row.answer_type == "integer":
        old = _number(value, int)
        others["published_integers"] = old is not None and old == str(row.gold)
    if row.question_type == "multi_choice":
        others["exact_option"] = correct and _named(row, _choice_text(value)) is not None
    return Judgement(correct, f"{found!r} against {str(row.gold)!r}", others)


def normalise(row: Row, value: Any) -> str | None:
    """Return the extraction as text in the answer's type, None when it has none."""
    if row.question_type == "multi_choice":
        text = _choice_text(value)
        named = _named(row, text)
        if named is not None or not row.options:
            return named
        return min(
            row.options.values(), key=lambda option: rule_extraction.edit_distance(text, option)
        )
    if row.answer_type == "integer":
        return _number(value, lambda x: int(float(x)))
    if row.answer_type == "float":
        return _number(value, lambda x: round(float(x), row.precision or 0))
    return None if value is None else str(value)


def _choice_text(value: Any) -> str:
    """Return the first bracketed letter, whether an option has it or not, else the text."""
    text = "" if value is None else str(value).strip()
    letter = _LETTER.search(text)
    return letter[1].upper() if letter else text


def _named(row: Row, text: str) -> str | None:
    """Return the option of this letter or text."""
    if text in row.options:
        return row.options[text]
    return text if text in row.options.values() else None


def _number(value: Any, read: Any) -> str | None:
    try:
        return str(read(value))
    except (ValueError, TypeError, OverflowError):
        return None


BENCHMARK = Benchmark(
    "mathvista", "MathVista", problems, extract, judge,
    tables=(
        "question_type", "answer_type", "language", "source", "category", "task", "context",
        "grade", "skills",
    ),
    llm=True,
)  # fmt: skip
