"""MathVista (Lu et al., 2310.02255): 1,000 testmini problems; protocol of lupantech/MathVista.

Prompt: the data set's own `query`. Extraction: short rules, then an LLM for the rest (GPT-4 in the
published results), or rule_extraction.py without an endpoint; the result is labelled. The
extraction is normalised by type and compared as text with the answer.

Oddities kept: the first "(x)" counts as a letter; a text that is not a letter becomes the choice
with the least edit distance, so that an empty extraction picks the shortest choice; a list is
compared as printed. The repository's code reads "5.0" as the integer 5, most published labels did
not: rule `published_integers`. Stricter rule: `exact_option`, without the nearest choice.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

from sapo_vl.data.sources import mathvista
from sapo_vl.evaluation.benchmarks import rule_extraction
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement, Response
from sapo_vl.evaluation.benchmarks.rows import require, single_gold, text_gold, unscorable
from sapo_vl.schema import IMAGE_MARK, Sample

_LETTER = re.compile(r"\(([a-zA-Z])\)")
QUESTION_TYPES = ("multi_choice", "free_form")
ANSWER_TYPES = ("text", "integer", "float", "list")
_QUICK = ('The answer is "', '".')


def prompt(sample: Sample) -> str:
    """Return the image and the data set's own query."""
    return IMAGE_MARK + sample.metadata["published"]["query"]


def check(response: Response) -> Response:
    """Require the types, which decide the rule; a number is written as the rule writes it."""
    require(response, "question_type", QUESTION_TYPES)
    require(response, "answer_type", ANSWER_TYPES)
    if response.question_type == "multi_choice":
        require(response, "choices")
        return text_gold(response)
    if response.answer_type == "list" and isinstance(response.answer, list):
        return replace(response, answer=f"[{', '.join(response.answer)}]")
    response = single_gold(response)
    if response.answer_type == "float":
        require(response, "precision")
    if response.unscorable or response.answer_type not in ("integer", "float"):
        return response
    given = response.answer.strip().replace(",", "")
    text = normalise(response, given)
    if text is None or (response.answer_type == "integer" and float(text) != float(given)):
        reason = f"the gold {response.answer[:80]!r} is no number of type {response.answer_type}"
        return unscorable(response, reason)
    return replace(response, answer=text)


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Apply the official short rules in order, then rule_extraction.py in place of GPT-4."""
    text = response.text
    if text == "":
        return ExtractedAnswer("", "empty response")
    if response.question_type == "multi_choice" and text in response.choices.values():
        return ExtractedAnswer(text)
    for kind, read in (("integer", int), ("float", float)):
        if response.answer_type == kind:
            try:
                return ExtractedAnswer(str(read(text)))
            except ValueError:
                pass
    if (quoted := _quoted(text)) is not None:
        return ExtractedAnswer(quoted)
    return ExtractedAnswer(rule_extraction.short_answer(response), rule_extraction.IN_PLACE)


def _quoted(text: str) -> str | None:
    r"""Return what the official `The answer is "(.*)"\.` finds, in linear time."""
    for line in text.split("\n"):
        start, end = line.find(_QUICK[0]) + len(_QUICK[0]), line.rfind(_QUICK[1])
        if start >= len(_QUICK[0]) and end >= start:
            return line[start:end]
    return None


def judge(response: Response, value: Any) -> Judgement:
    """Normalise and compare with the answer, by the repository's integer rule."""
    text = normalise(response, value)
    correct = text is not None and text == str(response.answer)
    others = {"published_integers": correct, "exact_option": correct}
    if response.answer_type == "integer":
        old = _number(value, int)
        others["published_integers"] = old is not None and old == str(response.answer)
    if response.question_type == "multi_choice":
        others["exact_option"] = correct and _named(response, _choice_text(value)) is not None
    return Judgement(correct, f"{text!r} against {str(response.answer)!r}", others)


def normalise(response: Response, value: Any) -> str | None:
    """Return the extraction as text of the answer's type, None when it cannot be read so."""
    if response.question_type == "multi_choice":
        text = _choice_text(value)
        named = _named(response, text)
        if named is not None or not response.choices:
            return named
        return min(
            response.choices.values(),
            key=lambda option: rule_extraction.edit_distance(text, option),
        )
    if response.answer_type == "integer":
        return _number(value, lambda x: int(float(x)))
    if response.answer_type == "float":
        return _number(value, lambda x: round(float(x), response.precision or 0))
    return None if value is None else str(value)


def _choice_text(value: Any) -> str:
    """Return the first letter in parentheses, whether it is a choice's or not, else the text."""
    text = "" if value is None else str(value).strip()
    letter = _LETTER.search(text)
    return letter[1].upper() if letter else text


def _named(response: Response, text: str) -> str | None:
    """Return the text of the choice with this letter or text."""
    if text in response.choices:
        return response.choices[text]
    return text if text in response.choices.values() else None


def _number(value: Any, read: Any) -> str | None:
    try:
        return str(read(value))
    except (ValueError, TypeError, OverflowError):
        return None


BENCHMARK = Benchmark(
    name="mathvista",
    title="MathVista",
    rows=mathvista.rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("data/testmini.json", "testmini.json", "**/testmini*.parquet"),
    hub="AI4Math/MathVista",
    tables=(
        *("question_type", "answer_type", "language", "source", "category", "task", "context"),
        *("grade", "skills"),
    ),
    llm=True,
)
