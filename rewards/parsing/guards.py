"""Limits on the input of computer algebra, checked before it runs."""

from __future__ import annotations

import re

from sapo_vl.rewards.parsing.brackets import MAX_DEPTH, is_too_deep
from sapo_vl.rewards.parsing.rationals import OverLimitError

MAX_CHARS = 2048
MAX_DIGIT_RUN = 400
MAX_TERMS = 400
MAX_CELLS = 100

_FACTORIAL = re.compile(r"\d{4,}\s*!|[)}]\s*!")
_SMALL_FACTORIAL = re.compile(r"[({]\s*(?:(?!\d{4})[\da-zA-Z+\-* ]){1,20}[)}]\s*!{1,2}(?!!)")
_BINOMIAL = re.compile(
    r"\\binom\s*\{\s*(\d{4,}|[^{}]*\^[^{}]*)\s*\}|\\(?:Gamma|gamma)\s*\(\s*\d{4,}"
)
_BIG_EXPONENT = re.compile(r"\^\s*(?:\{\s*[+-]?\s*\d{5,}\s*\}|\d{5,})")
_TOWER = re.compile(
    r"\^\s*(?:\{[^{}^]*|\(?[^{}^()+\-*/ ]{0,8})\^\s*(?:\{[^{}^]*|[^{}^()+\-*/ ]{0,8})\^"
)
_BIG_POWER_IN_POWER = re.compile(r"\^\s*\{[^{}^]*\d\s*\^\s*\{?\s*\d{2,}")
_MATRIX_POWER = re.compile(r"\\end\s*\{[a-zA-Z]*matrix\}\s*\^")
_CALCULUS = re.compile(r"\\(?:int|sum|prod|lim)(?![a-z])")


def check(text: str) -> None:
    """Raise OverLimitError with the reason when `text` is too large or its value may be."""
    if len(text) > MAX_CHARS:
        raise OverLimitError(f"longer than {MAX_CHARS} characters")
    if re.search(rf"\d{{{MAX_DIGIT_RUN}}}", text):
        raise OverLimitError(f"a run of more than {MAX_DIGIT_RUN} digits")
    if is_too_deep(text):
        raise OverLimitError(f"brackets nested deeper than {MAX_DEPTH}")
    if sum(text.count(sign) for sign in "+-*/^") > MAX_TERMS:
        raise OverLimitError(f"more than {MAX_TERMS} operators")
    if text.count("&") > MAX_CELLS:
        raise OverLimitError("a matrix is too large")
    text = _SMALL_FACTORIAL.sub("n!", text)  # `(m-1)!` is evaluated at small integers
    for pattern, reason in (
        (_TOWER, "a tower of powers"),
        (_BIG_EXPONENT, "an exponent of more than four digits"),
        (_BIG_POWER_IN_POWER, "a power inside a power"),
        (_FACTORIAL, "a factorial is too large"),
        (_BINOMIAL, "a binomial is too large"),
        (_MATRIX_POWER, "a power of a matrix"),
    ):
        if pattern.search(text):
            raise OverLimitError(reason)
    if len(_CALCULUS.findall(text)) > 2:
        raise OverLimitError("more than two sums or integrals")
