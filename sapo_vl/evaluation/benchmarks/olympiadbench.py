"""OlympiadBench (He et al., 2402.14008): open-ended olympiad problems; rule judge of OpenBMB.

Prompt: the repository's, with a sentence for the answer's type and the box. The judge
(olympiad_judge.py) splits both answers at top-level commas, expands \\pm and matches the parts in
any order: as text, numbers within the item's precision, intervals, expressions, equations.

Oddities kept: a percentage may also be a hundredth or a hundred times its value. Stricter rule:
`verified`, the training verifier. Left out: theorem proofs, which have no final answer.
"""

from __future__ import annotations

import math
import random
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.text import MarkedText
from sapo_vl.data.sources import olympiadbench
from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import olympiad_judge, training_verifier
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    mark_images,
)
from sapo_vl.rewards.parsing.extract import joined_boxes, last_box
from sapo_vl.schema import Outcome, Sample

_TYPES = {
    "Numerical": "a numerical value",
    "Expression": "an expression",
    "Equation": "an equation",
    "Interval": "an interval",
    "Tuple": "a tuple",
}


def prompt(sample: Sample) -> MarkedText:
    """Return the repository's introduction, context and question, with the images they name."""
    published: Published = sample.metadata["published"]
    kind = published["answer_type"]
    ask = f"The answer of The problem should be {_TYPES[kind]}. " if kind in _TYPES else ""
    several = published["is_multiple_answer"]
    form = "multiple answers connected with commas" if several else "answer"
    tail = " (unit)" if published["unit"] else ""
    intro = (
        f"The following is an open-ended problem from an International {sample.task} "
        f"competition. {ask}Please calculate the answer according to the given requirements "
        "and the information provided. Please use LaTeX format to represent the variables and "
        "formulas used in the solution process and results. Please end your solution with "
        f'"So the final answer is \\boxed{{{form}}}{tail}." and give the result explicitly'
    )
    parts = (intro, published["context"], published["question"])
    return mark_images("\n".join(part for part in parts if part), sample)


def check(response: Response) -> Response:
    """Refuse a tolerance (`error`) that would accept every number."""
    error = response.meta.get("error")
    if not all(0 <= tolerance < math.inf for tolerance in olympiad_judge.precision(error)):
        raise DataError(f"error must be tolerances of 0 or more, not {str(error)[:60]!r}")
    return response


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the content of the last box, or of all boxes of the last line."""
    return ExtractedAnswer(joined_boxes(response.text) or last_box(response.text).answer)


def judge(response: Response, value: Any) -> Judgement:
    """Apply the rule judge to the accepted answers."""
    if not value:
        return Judgement(False, "no box")
    accepted = response.answer if isinstance(response.answer, list) else [response.answer]
    expected = ", ".join(str(part).strip("$ ") for part in accepted)
    precision = olympiad_judge.precision(response.meta.get("error"))
    correct = olympiad_judge.equal(response, expected, str(value), precision)
    strict = (
        training_verifier.equal_texts(response, expected, str(value)).outcome is Outcome.CORRECT
    )
    return Judgement(
        correct, f"{str(value)[:80]!r} against {expected[:80]!r}", {"verified": strict}
    )


BENCHMARK = Benchmark(
    name="olympiadbench",
    title="OlympiadBench (open-ended)",
    rows=olympiadbench.rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("**/OE_*en*.parquet",),
    hub="Hothan/OlympiadBench",
    tables=("subject", "subfield", "answer_type"),
)
