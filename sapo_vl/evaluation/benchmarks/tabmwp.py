"""TabMWP (Lu et al., 2209.14610): tables and word problems; rules of lupantech/PromptPG.

Prompt: the table as an image, the question with unit or choices, and a box for the answer (the
repository prompts text models with the table as text). Extraction: the first regular expression
that matches; choices by letter, else by shared words. Both answers are normalised and compared.

Oddities kept: a letter beyond the choices draws one at random (`is_random`); a letter followed by
any sign and a space counts, whatever follows. Unit and choices decide the rule, so that a response
without its question type has no verdict. Stricter rule: `no_random`.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.text import choices_by_letter
from sapo_vl.data.sources import tabmwp
from sapo_vl.evaluation.benchmarks import tabmwp_answer
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement, Response
from sapo_vl.evaluation.benchmarks.rows import require, single_gold, text_gold, unscorable
from sapo_vl.schema import IMAGE_MARK, Sample

QUESTION_TYPES = ("multi_choice", "free_text")
UNKNOWN = "no question_type: unit and choices of the problem are not known"


def prompt(sample: Sample) -> str:
    """Return the question with its unit, the choices, and the request for a box."""
    published: Published = sample.metadata["published"]
    parts = [published["question"]]
    if published["unit"]:
        parts.append(f"(Unit: {published['unit']})")
    choices = choices_by_letter(published["choices"])
    parts += [f"({letter}) {text}" for letter, text in choices.items()]
    parts.append("Put your final answer within \\boxed{}.")
    return IMAGE_MARK + "\n".join(parts)


def check(response: Response) -> Response:
    """Require choices of a multiple-choice row; its gold is a choice's text."""
    if response.question_type is None:
        return unscorable(single_gold(response), UNKNOWN)
    require(response, "question_type", QUESTION_TYPES)
    if response.question_type == "multi_choice":
        require(response, "choices")
        return text_gold(response)
    return single_gold(response)


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Apply the official expressions to the inside of the last box, else to the whole response."""
    if response.question_type is None:
        return ExtractedAnswer(None, UNKNOWN)
    options = list(response.choices.values())
    return tabmwp_answer.find(tabmwp_answer.boxed(response.text), options, draw)


def judge(response: Response, value: Any) -> Judgement:
    """Normalise both sides and compare them in lower case."""
    if response.question_type is None:
        return Judgement(None, UNKNOWN)
    if value is None:
        return Judgement(False, "no answer")
    given = tabmwp_answer.normalise(str(value), response.unit)
    expected = tabmwp_answer.normalise(str(response.answer), response.unit)
    return Judgement(given.lower() == expected.lower(), f"{given[:80]!r} against {expected!r}")


BENCHMARK = Benchmark(
    name="tabmwp",
    title="TabMWP (test1k)",
    rows=partial(tabmwp.rows, splits=("test1k",)),
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("data/tabmwp/problems_test1k.json",),
    tables=("question_type", "answer_type", "grade"),
)
