"""MathVerse (Zhang et al., 2403.14624): 788 problems in six versions; ZrrSkywalker/MathVerse.

Prompt: the data's own `query_cot`. An LLM extracts the answer and an LLM judges it; without an
endpoint the training verifiers do both, and the result says so. Beside it: `quick_match`, the
repository's own text equality, and with an endpoint `by_rule`, the verifiers' verdict. The site's
explorer format is read too (its choices are listed).

Accuracy is the paper's "w/o" score; CoT-E, which needs GPT-4V, is left out. Five versions have an
image, Text Only has none. Oddity: in 25 of the explorer's 121 problems gold texts differ between
versions, and some choices have two letters.

    original layout: SOURCE/data/testmini*.json or SOURCE/output_templates/output_testmini.json,
                     images in SOURCE/images or beside them; or SOURCE/visualizer/ of the site
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import rule_extraction, sources
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    from_verdict,
)
from sapo_vl.evaluation.benchmarks.training_verifier import equal
from sapo_vl.schema import IMAGE_MARK

_FILES = ("data/testmini.json", "data/testmini_text_only.json")
_SITE = "visualizer/data/mv_data_public.js"
_LETTER = re.compile(r"\b[A-Z]\b")
_ASK = {
    "multi-choice": "provide the correct option letter, e.g., A, B, C, D, at the end.",
    "free-form": "provide the final value, e.g., 1, 2.5, 300, at the end.",
}


def problems(source: Path) -> Iterator[Problem]:
    """Yield testmini, then the text-only file; else the site's public subset."""
    folder = sources.find(source, "mathverse", [*_FILES, _SITE], "AI4Math/MathVerse")
    if (folder / _SITE).is_file():
        yield from _site(folder)
        return
    for file in _FILES:
        for row in sources.read_json(folder / file) if (folder / file).is_file() else ():
            name = f"mathverse {row['sample_index']}"
            image = row["image"]
            meta = row["metadata"] | {"problem_version": row["problem_version"]}
            data = (sources.picture(folder / "images", image, name),) if image else ()
            yield Problem(
                id=row["sample_index"],
                prompt=IMAGE_MARK * len(data) + row["query_cot"],
                images=data,
                gold=row["answer"],
                question=row["question"],
                question_type=row["question_type"],
                meta=meta | {"problem_index": row["problem_index"]},
            )


def _site(folder: Path) -> Iterator[Problem]:
    text = (folder / _SITE).read_text(encoding="utf-8")
    try:
        rows = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError as error:
        raise DataError(f"{folder / _SITE}: can't be read: {error}") from error
    for pid, row in rows.items():
        meta, choices = row["metadata"], row["choices"]
        kind = "multi-choice" if choices else "free-form"
        image = row["image"]
        name = f"mathverse {pid}"
        data = (sources.picture(folder / "visualizer" / "images", image, name),) if image else ()
        listed = "\nChoices:\n" + "\n".join(choices) if choices else ""
        ask = f"Please first conduct reasoning, and then answer the question and {_ASK[kind]}"
        yield Problem(
            id=pid,
            prompt=f"{IMAGE_MARK * len(data)}{ask}\nQuestion: {row['question']}{listed}",
            images=data,
            gold=row["answer"],
            question=row["question"],
            question_type=kind,
            meta={
                "subject": meta["subjects"],
                "subfield": meta["subfields"],
                "problem_version": meta["problem_version"],
            },
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return a letter or an answer by our rule."""
    if row.question_type == "multi-choice":
        claimed = "\n".join(rule_extraction.letters(row))
        return Extraction(claimed or None, rule_extraction.IN_PLACE)
    return Extraction(rule_extraction.short_answer(row) or None, rule_extraction.IN_PLACE)


def judge(row: Row, value: Any) -> Judgement:
    """Compare a letter as text, a free answer as mathematics."""
    quick = value is not None and str(value).strip() == str(row.gold).strip()
    reason, others = f"{value!r} against {row.gold!r}", {"quick_match": quick}
    if quick or value is None:
        return Judgement(quick, reason, others)
    if row.question_type == "multi-choice":
        letters = [set(_LETTER.findall(str(text))) for text in (value, row.gold)]
        return Judgement(letters[0] == letters[1] != set(), reason, others)
    return from_verdict(equal(row, str(value)), quick_match=quick)


BENCHMARK = Benchmark(
    "mathverse", "MathVerse (w/o)", problems, extract, judge,
    tables=("problem_version", "subject", "subfield", ("problem_version", "subject")), llm=True,
    llm_judge=True,
)  # fmt: skip
