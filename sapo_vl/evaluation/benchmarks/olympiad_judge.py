"""OlympiadBench's rule judge (OpenBMB/OlympiadBench, auto_scoring_judge), rebuilt from its rules.

Departure: the original passes the model's LaTeX to sympy in its own process; here expressions and
equations that exact arithmetic cannot decide go to the killable worker pool, where an equation
equals any constant multiple of it (original: an integer multiple).
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
    tolerances = []
    for text in str(error or "").split(","):
        try:
            tolerances.append(float(text))
        except ValueError:
            continue
    return tolerances or [PRECISION]


def equal(response: Response, expected: str, answer: str, tolerances: Sequence[float]) -> bool:
    """Return whether the parts of the answer equal the expected parts, in any order."""
    if _clean(expected) == _clean(answer):
        return True
    accepted, answers = _parts(expected), _parts(answer)
    if len(accepted) != len(answers) or len(accepted) > MAX_PARTS:
        return False
    steps = tolerances if len(tolerances) == len(accepted) else [tolerances[0]] * len(accepted)
    left = list(answers)
    for part, step in zip(accepted, steps, strict=True):
        match = next((a for a in left if _same(response, part, a, step)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same(response: Response, expected: str, answer: str, step: float) -> bool:
    if _clean(expected) == _clean(answer):
        return True
    if expected[:1] in "([" and answer[:1] in "([" and "," in expected and "," in answer:
        ends = (expected[0], expected[-1]) == (answer[0], answer[-1])
        inside = split(expected[1:-1]), split(answer[1:-1])
        return ends and len(inside[0]) == len(inside[1]) and all(
            _same(response, g, a, step) for g, a in zip(*inside, strict=True)
        )  # fmt: skip
    number, other = value(_PERCENT.sub("", expected)), value(_PERCENT.sub("", answer))
    if number is not None and other is not None:
        scales = (1, 0.01, 100) if "%" in expected + answer else (1,)
        return any(abs(number * s - other) <= SLACK * step for s in scales)
    return training_verifier.equal_texts(response, expected, answer).outcome is Outcome.CORRECT


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
