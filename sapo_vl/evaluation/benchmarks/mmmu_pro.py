"""MMMU-Pro (Yue et al., 2409.02813): 1,730 problems, up to ten options; official rules.

Two configurations: standard (images in the text) and vision (the question is in the screenshot);
each is read from its folder of the hub's layout. Prompt: the repository's chain-of-thought one.
Extraction: what follows the last "Answer:" if it holds exactly one option's letter, then as MMMU.

Oddities kept: as in mmmu_answer.py; a capital letter anywhere in the text behind "Answer:" counts.
Stricter and beside it: `no_random`, where a random choice is wrong.

    Hugging Face:    MMMU/MMMU_Pro (parquet)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import mmmu, mmmu_answer, sources
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    lettered,
)
from sapo_vl.schema import IMAGE_MARK

LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without "
    "quotes) where LETTER is one of options. Think step by step before answering."
)
STANDARD = f"Answer the preceding multiple choice question. {LAST_LINE}"
VISION = f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE}"
_FORMS = ("({})", "{} ", "{}.")


def problems(source: Path) -> Iterator[Problem]:
    """Yield the standard problems with ten options, then the vision ones."""
    patterns = ["standard*10*/*.parquet", "vision/*.parquet"]
    folder = sources.find(source, "mmmu_pro", patterns, "MMMU/MMMU_Pro")
    for part in sorted(p for pattern in ("standard*10*", "vision") for p in folder.glob(pattern)):
        for row in sources.read_parquet(part, ["id", "options", "answer"]):
            name = f"mmmu_pro {row['id']}"
            meta = {"subject": row.get("subject"), "config": part.name}
            if "image" in row:
                yield Problem(
                    id=row["id"],
                    prompt=f"{IMAGE_MARK}\n{VISION}",
                    images=(sources.embedded(row["image"], name),),
                    gold=row["answer"],
                    options=lettered(sources.literal_list(row["options"], name), name),
                    question_type="multi_choice",
                    variant="vision",
                    meta=meta,
                )
                continue
            made = mmmu.problem(row, "mmmu_pro")
            text = made.prompt.replace(mmmu.MULTIPLE, STANDARD)
            yield replace(made, prompt=text, variant="standard", meta=made.meta | meta)


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return a letter."""
    place = row.text.rfind("Answer:")
    if place != -1:
        tail = row.text[place + len("Answer:") :].strip()
        found = [letter for letter in row.options if letter in tail]
        if len(found) == 1:
            return Extraction(found[0])
    return mmmu_answer.choice(row, draw, _FORMS)


def judge(row: Row, value: Any) -> Judgement:
    """Compare a letter with the gold letter."""
    return Judgement(value == row.gold, f"{value!r} against {row.gold!r}")


BENCHMARK = Benchmark(
    "mmmu_pro", "MMMU-Pro", problems, extract, judge,
    tables=("config", "subject", "topic_difficulty"),
)  # fmt: skip
