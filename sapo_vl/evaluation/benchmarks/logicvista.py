"""LogicVista (Xiao et al., 2407.04973): 448 multiple-choice puzzles; Yijia-Xiao/LogicVista.

Extraction: an LLM lists the letters ("ZZZZZ" for none), or rule_extraction.py when there is no
endpoint; the result is labelled. The sorted lower-case letters must equal the answer's.

Oddities kept: one answer is "3" and one is empty; both are compared like letters. Stricter rule:
`is_gold_usable`, which counts a response as wrong where the answer has no letter.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import partial
from typing import Any

from sapo_vl.data.sources import logicvista
from sapo_vl.evaluation.benchmarks import rule_extraction
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement, Response
from sapo_vl.evaluation.benchmarks.rows import letters_gold
from sapo_vl.schema import IMAGE_MARK, Sample

NONE = "ZZZZZ"


def prompt(sample: Sample) -> str:
    """Return the image and the question."""
    return IMAGE_MARK + sample.metadata["published"]["question"]


def check(response: Response) -> Response:
    """Read the gold's letters; the one empty gold of the data set is compared as it is."""
    if response.answer == "":
        return replace(response, unscorable="")
    return letters_gold(response)


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the letters that the response claims, by rule_extraction.py."""
    return ExtractedAnswer(rule_extraction.letters(response) or [NONE], rule_extraction.IN_PLACE)


def judge(response: Response, value: Any) -> Judgement:
    """Compare the sorted letters."""
    letters, expected = _letters(value), _letters(str(response.answer))
    correct = letters == expected
    usable = bool(expected) and all(len(c) == 1 and c.isalpha() for c in expected)
    rules = {"is_gold_usable": usable and correct}
    return Judgement(correct, f"{letters} against {expected}", rules)


def _letters(value: Any) -> list[str]:
    """Return lower-case letters in order, from a list or from text such as "A, C"."""
    if isinstance(value, str):
        value = re.split(r"[,\s]+", value) if value.strip() else [value]
    return sorted(str(item).strip().lower() for item in value or [])


BENCHMARK = Benchmark(
    name="logicvista",
    title="LogicVista",
    rows=partial(logicvista.rows, unanswered=True),
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("data/dataset.json",),
    tables=("skill", "capability", "specific_capability"),
    llm=True,
)
