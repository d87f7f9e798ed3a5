"""OlympiadBench's rule judge (OpenBMB/OlympiadBench, auto_scoring_judge), rebuilt from its rule.

Departure: theirs gives the model's LaTeX to sympy in its own process; here expressions and
equations that exact arithmetic cannot decide go to the killable worker pool, where an equation
equals a gold that is any constant multiple of it (theirs: a whole multiple).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sapo_vl.evaluation.benchmarks import training_verifier
from sapo_vl.evaluation.benchmarks.latex_value import value
from sapo_vl.evaluation.benchmarks.protocol import Response
from sapo_vl.schema import Outcome

PRECISION = 1e-8
SLACK = 1.01
MAX_PARTS = 40
_NOISE = re.compile(r"\\(?:left|right|displaystyle|mathrm|text|!|,|;)(?![a-z])|\$|~|\s")
_PERCENT = re.compile(r"\\?%")


def precision(error: object) -> list[float]:
    """Return the tolerances of an item's `error` field ("1e-2", "0.1,0.2" or nothing)."""
    found = []
    for text in str(error or "").split(","):
        try:
            found.append(float(text))
        except ValueError:
            continue
    return found or [PRECISION]


def equal(response: Response, gold: str, answer: str, tolerances: Sequence[float]) -> bool:
    """Whether the answer's parts are the gold's, in any order."""
    if _clean(gold) == _clean(answer):
        return True
    golds, answers = _parts(gold), _parts(answer)
    if len(golds) != len(answers) or len(golds) > MAX_PARTS:
        return False
    steps = tolerances if len(tolerances) == len(golds) else [tolerances[0]] * len(golds)
    left = list(answers)
    for part, step in zip(golds, steps, strict=True):
        match = next((a for a in left if _same(response, part, a, step)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same(response: Response, gold: str, answer: str, step: float) -> bool:
    if _clean(gold) == _clean(answer):
        return True
    if gold[:1] in "([" and answer[:1] in "([" and "," in gold and "," in answer:
        ends = (gold[0], gold[-1]) == (answer[0], answer[-1])
        inside = split(gold[1:-1]), split(answer[1:-1])
        return ends and len(inside[0]) == len(inside[1]) and all(
            _same(response, g, a, step) for g, a in zip(*inside, strict=True)
        )  # fmt: skip
    number, other = value(_PERCENT.sub("", gold)), value(_PERCENT.sub("", answer))
    if number is not None and other is not None:
        scales = (1, 0.01, 100) if "%" in gold + answer else (1,)
        return any(abs(number * s - other) <= SLACK * step for s in scales)
    return training_verifier.equal_texts(response, gold, answer).outcome is Outcome.CORRECT


def _parts(text: str) -> list[str]:
    parts = []
    for part in split(text):
        if "\\pm" in part:
            parts += [part.replace("\\pm", "+").lstrip("+"), part.replace("\\pm", "-")]
        else:
            parts.append(part)
    return parts


def split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip(" $") for part in [*parts, text[start:]]]


def _clean(text: str) -> str:
    return _NOISE.sub("", text).rstrip(".")
