"""Exact comparison of short answers without sympy: fractions, choice letters, folded text.

Bounded by the input's size, so it needs no timeout.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 4096  # longer numbers are compared as text
MAX_EXPONENT = 4300  # 10**4300 is what Python itself accepts as an integer literal

_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-")
_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,5}))?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_FRAC = re.compile(r"([+-]?)\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")


def fold(text: str) -> str:
    """Return `text` in one spelling: NFKC, plain minus, no control characters, single blanks."""
    text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    return " ".join(text.split())


def to_fraction(text: str) -> Fraction | None:
    """Read an integer, decimal, `1,234`, `3e-2`, `a/b` or `\\frac{a}{b}` exactly; else None."""
    text = fold(text).strip("$").strip()
    if frac := _FRAC.fullmatch(text.replace(" ", "")):
        sign, top, bottom = frac.groups()
        return _divide(sign + top, bottom)
    if text.count("/") == 1:
        return _divide(*text.split("/"))
    return _decimal(text)


def _divide(top: str, bottom: str) -> Fraction | None:
    numerator, denominator = _decimal(top), _decimal(bottom)
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def _decimal(text: str) -> Fraction | None:
    text = text.strip()
    if len(text) > MAX_DIGITS or not text.isascii():
        return None
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, decimals, exponent = match.groups()
    if not whole and not decimals:
        return None
    power = int(exponent or 0) - len(decimals or "")
    if abs(power) > MAX_EXPONENT:
        return None
    value = Fraction(int(whole + (decimals or ""))) * Fraction(10) ** power
    return -value if sign == "-" else value


def same(gold: str, answer: str, is_choice: bool = False) -> bool:
    """Whether two short answers say the same: equal number, equal letter, or equal folded text."""
    if is_choice:
        return bool(gold) and choice_letter(gold) == choice_letter(answer)
    left, right = to_fraction(gold), to_fraction(answer)
    if left is not None and right is not None:
        return left == right
    folded = _text(gold)
    return bool(folded) and folded == _text(answer)


def choice_letter(text: str) -> str:
    """Return `b` for `B`, `(B)`, `B.` or `\\text{B}`, otherwise the folded text."""
    return _text(text).strip("().: ").strip()


def _text(text: str) -> str:
    text = fold(text).strip("$ ")
    if text.startswith("\\text{") and text.endswith("}"):
        text = text[len("\\text{") : -1]
    return text.strip().rstrip(".").casefold()
