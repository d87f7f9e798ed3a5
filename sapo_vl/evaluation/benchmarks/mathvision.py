"""MathVision (Wang et al., 2402.14804): 3,040 test problems; protocol of mathllm/MATH-V.

Rules throughout: mathvision_answer.py extracts, `equal` compares with the answer's letter and with
the text of its choice: as lower-case text, then tuples element by element, then as numbers with two
decimals.

Oddities kept: two decimals, so that 1/9 equals 10/91; the readable beginning of a text is its
number (latex_value.py). Stricter rule: `same_text`, equal as text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.data import Dropped
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.text import choices_by_letter
from sapo_vl.data.sources import mathvision
from sapo_vl.evaluation.benchmarks.latex_value import rounded
from sapo_vl.evaluation.benchmarks.mathvision_answer import find_answer
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement, Response
from sapo_vl.evaluation.benchmarks.rows import choice_gold
from sapo_vl.schema import IMAGE_MARK, Sample

PROMPT = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a '
    'multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)


def rows(folder: Path) -> Iterator[Sample | Dropped]:
    """Yield test, which contains testmini, or testmini when test is missing."""
    test = ("data/test.jsonl", "**/test-*.parquet", "**/test.parquet")
    has_test = any(next(folder.glob(pattern), None) for pattern in test)
    return mathvision.rows(folder, ("test",) if has_test else ("testmini",))


def prompt(sample: Sample) -> str:
    """Return the instruction, the question with the image in its place, and the choices."""
    published: Published = sample.metadata["published"]
    choices = choices_by_letter(published["choices"])
    listed = "".join(f"({letter}) {text}\n" for letter, text in choices.items())
    if [text.strip("()") for text in choices.values()] == list(choices):
        listed = ""
    question = published["question"].replace("<image1>", IMAGE_MARK, 1)
    lead = "" if IMAGE_MARK in question else IMAGE_MARK
    return f"{lead}{PROMPT}{question}\n{listed}"


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the official extraction."""
    return ExtractedAnswer(find_answer(response.text))


def judge(response: Response, value: Any) -> Judgement:
    """Compare with the answer's letter, then with the text of its choice."""
    answer = "" if value is None else str(value).strip()
    expected = str(response.answer)
    choice = response.choices.get(expected, "")
    correct = equal(expected, answer) or equal(choice, answer)
    same_text = answer != "" and answer.lower() in (expected.lower(), choice.lower().strip("$ "))
    return Judgement(correct, f"{answer[:80]!r} against {expected!r}", {"same_text": same_text})


def equal(expected: str, answer: str) -> bool:
    """Apply the official equality of two strings."""
    expected, answer = expected.lower(), answer.lower()
    if not expected.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if expected.strip() == answer.strip() or _elements(expected) == _elements(answer):
        return True
    left, right = rounded(expected), rounded(answer)
    return left is not None and left == right


def _elements(text: str) -> str:
    """Return a tuple or a list with its elements rounded to two decimals, other text unchanged."""
    if len(text) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    parts = text[1:-1].split(",")
    values = [part if _is_kept(part) else rounded(part) for part in parts]
    if len(parts) < 2 or None in values:
        return text
    return text[0] + ",".join(str(value) for value in values) + text[-1]


def _is_kept(part: str) -> bool:
    return "infty" in part or part in ("a", "-a")


BENCHMARK = Benchmark(
    name="mathvision",
    title="MathVision",
    rows=rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=choice_gold,
    files=("data/test.jsonl", "data/testmini.jsonl", "**/test*.parquet"),
    hub="MathLLMs/MathVision",
    tables=("subject", "level", ("subject", "level")),
)
