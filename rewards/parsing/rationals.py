"""Exact arithmetic on written numbers: text in, `Fraction` out, no sympy and no eval.

Reads integers and decimals of up to `MAX_DIGITS` characters, `1,234`, `1'234`, `12,34,567`,
`1.2e5`, `1.2 \\times 10^{5}`, `3/4`, `\\frac{3}{4}`, mixed numbers (`1 1/2`, `1\\frac{1}{2}`),
repeating decimals (`0.\\overline{3}`, `0.1(6)`, `0.333\\dots`), numbers in words (number_words.py),
and sums, products, powers, exact roots, factorials and binomials of those.
Sizes are checked before anything is computed, so no input is slow and no timeout is needed.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from sapo_vl.rewards.parsing import number_words

MAX_DIGITS = 4096  # a longer text isn't read as a number
MAX_BITS = 16_384  # of a numerator or denominator, in every intermediate result
MAX_FACTORIAL = 1000
MAX_DEPTH = 32  # nesting of brackets
MAX_DOTTED = 60  # characters of a decimal such as 0.142857142857...

_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_THOUSANDS = re.compile(
    r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:'\d{3})+|\d{1,3}(?: \d{3})+|\d{1,2}(?:,\d{2})+,\d{3})"
    r"(?:\.\d*)?"
)  # 1,234,567; 1'234'567; 1 234 567; 12,34,567 (Indian)
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,5})")
_MIXED = re.compile(r"([+-]?)\s*(\d+)\s+(?:and\s+)?(\d+)\s*/\s*(\d+)")
_REPEATING = re.compile(
    r"([+-]?)(\d*)\.(\d*?)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\)"
    r"|\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?|(\d)\u0304)"
)
_DOTS = re.compile(r"([+-]?)(\d*)\.(\d*?)(?:(\d)\4{2,}|(\d{2,9}?)\5+)\s*\\dots\s*")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+\.?\d*|\.\d+)"
    r"|(?P<name>\\[a-zA-Z]+)|(?P<sign>[-+*/^(){}\[\]!]))"
)


class OverLimitError(Exception):
    """The number is well formed but exceeds one of the limits above."""


class _Unreadable(Exception):
    """Not a plain number. Caught in this file."""


def to_fraction(text: str) -> Fraction | None:
    """Return the exact value of a cleaned text, or None when it is not a plain number.

    Raises OverLimitError when it is one, but exceeds a limit of this file.
    """
    text = text.strip()
    if len(text) > MAX_DIGITS:
        if text.lstrip("+-").isdigit():
            raise OverLimitError(f"a number of {len(text)} digits")
        return None
    if _PLAIN.fullmatch(text):
        return Fraction(text)
    if _THOUSANDS.fullmatch(text):
        return Fraction(re.sub("[,' ]", "", text))
    if match := _SCIENTIFIC.fullmatch(text):
        return _power_of_ten(Fraction(match[1]), int(match[2]))
    if match := _MIXED.fullmatch(text):
        return _mixed_number(match[1], int(match[2]), int(match[3]), int(match[4]))
    match = _REPEATING.fullmatch(text)
    if match is None and len(text) <= MAX_DOTTED and "\\dots" in text:
        match = _DOTS.fullmatch(text)
    if match:
        sign, whole, fixed, *period = match.groups()
        return _repeating(sign, whole, fixed, "".join(part or "" for part in period))
    if text[:1].isalpha() or not text.isascii():
        return number_words.value_of(text)
    try:
        return _Parser(text).value()
    except (_Unreadable, ZeroDivisionError):
        return None


def _mixed_number(sign: str, whole: int, top: int, bottom: int) -> Fraction | None:
    if not 0 < top < bottom:
        return None
    value = whole + Fraction(top, bottom)
    return -value if sign == "-" else value


def _repeating(sign: str, whole: str, fixed: str, period: str) -> Fraction:
    head = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -(head + tail) if sign == "-" else head + tail


def _power_of_ten(value: Fraction, exponent: int) -> Fraction:
    if abs(exponent) * 3.33 > MAX_BITS:
        raise OverLimitError(f"ten to the power {exponent}")
    return value * Fraction(10) ** exponent


def _within_limits(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise OverLimitError("an intermediate number is too large")
    return value


def _power_of(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        root = exponent.denominator
        if root > 8 or (base < 0 and root % 2 == 0):
            raise _Unreadable
        base, exponent = _root(base, root), Fraction(exponent.numerator)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and abs(exponent) * bits > MAX_BITS:
        raise OverLimitError("a power is too large")
    power = int(exponent) if abs(base) != 1 else int(exponent) % 2
    return base**power


def _root(value: Fraction, degree: int) -> Fraction:
    """Return the exact root, or raise when it is irrational."""
    sign = -1 if value < 0 else 1
    if sign < 0 and degree % 2 == 0:
        raise _Unreadable
    parts = []
    for number in (abs(value.numerator), value.denominator):
        if degree == 2:
            root = math.isqrt(number)
        else:
            root = round(number ** (1 / degree)) if number < 2**53 else 0
        if root**degree != number:
            raise _Unreadable
        parts.append(root)
    return sign * Fraction(parts[0], parts[1])


class _Parser:
    """A recursive-descent parser: sum, product, power, atom. Raises _Unreadable on other input."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _Unreadable
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()
        self.index = 0  # of the next token
        self.depth = 0

    def value(self) -> Fraction:
        result = self._sum()
        if self.index != len(self.tokens):
            raise _Unreadable
        return result

    def _peek(self) -> str:
        return self.tokens[self.index][1] if self.index < len(self.tokens) else ""

    def _take(self, *tokens: str) -> str:
        """Consume the next token if it is one of `tokens`; return it or an empty string."""
        token = self._peek()
        if token and token in tokens:
            self.index += 1
            return token
        return ""

    def _sum(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise OverLimitError("brackets are nested too deep")
        total = self._product()
        while sign := self._take("+", "-"):
            term = self._product()
            total = _within_limits(total + term if sign == "+" else total - term)
        self.depth -= 1
        return total

    def _product(self) -> Fraction:
        sign = 1
        while taken := self._take("-", "+"):
            sign = -sign if taken == "-" else sign
        total = self._power()
        while True:
            if self._take("*", "\\times", "\\cdot"):
                total = _within_limits(total * self._signed_power())
            elif self._take("/", "\\div"):
                divisor = self._signed_power()
                if divisor == 0:
                    raise _Unreadable
                total = _within_limits(total / divisor)
            elif self._peek() in ("(", "\\frac", "\\sqrt", "\\binom", "{"):
                total = self._juxtaposed(total)
            else:
                return sign * total

    def _juxtaposed(self, total: Fraction) -> Fraction:
        """`1\\frac{1}{2}` is a mixed number, `2(3)` and `2\\sqrt{4}` are products."""
        is_mixed = self._peek() == "\\frac" and self.tokens[self.index - 1][0] == "number"
        following = self._power()
        if is_mixed and total.denominator == 1 and 0 < following < 1:
            return total + following
        return _within_limits(total * following)

    def _signed_power(self) -> Fraction:
        if self._take("-"):
            return -self._power()
        self._take("+")
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        while self._take("!"):
            is_double = bool(self._take("!"))
            base = Fraction(_double_factorial(base) if is_double else _factorial(base))
        if self._take("^"):
            self.depth += 1  # a tower of powers
            if self.depth > MAX_DEPTH:
                raise OverLimitError("powers are nested too deep")
            exponent = self._signed_power() if self._peek() != "{" else self._atom()
            self.depth -= 1
            return _power_of(base, exponent)
        return base

    def _atom(self) -> Fraction:
        if self.index >= len(self.tokens):
            raise _Unreadable
        kind, token = self.tokens[self.index]
        self.index += 1
        if kind == "number":
            return Fraction(token.replace(",", ""))
        if token in ("(", "{", "["):
            return self._closed({"(": ")", "{": "}", "[": "]"}[token])
        if token == "\\frac":
            top, bottom = self._group(), self._group()
            if bottom == 0:
                raise _Unreadable
            return top / bottom
        if token == "\\sqrt":
            degree = self._closed("]") if self._take("[") else Fraction(2)
            if degree.denominator != 1 or not 2 <= degree <= 8:
                raise _Unreadable
            return _root(self._group(), int(degree))
        if token == "\\binom":
            n, k = self._group(), self._group()
            if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
                raise _Unreadable
            if n > MAX_FACTORIAL:
                raise OverLimitError("a binomial is too large")
            return Fraction(math.comb(int(n), int(k)))
        raise _Unreadable

    def _closed(self, closing: str) -> Fraction:
        result = self._sum()
        if not self._take(closing):
            raise _Unreadable
        return result

    def _group(self) -> Fraction:
        if not self._take("{"):
            raise _Unreadable
        return self._closed("}")


def _factorial(value: Fraction) -> int:
    if value.denominator != 1 or value < 0:
        raise _Unreadable
    if value > MAX_FACTORIAL:
        raise OverLimitError("a factorial is too large")
    return math.factorial(int(value))


def _double_factorial(value: Fraction) -> int:
    """Return n (n - 2) (n - 4) ..., which is what `n!!` means."""
    if value.denominator != 1 or value < 0:
        raise _Unreadable
    if value > MAX_FACTORIAL:
        raise OverLimitError("a factorial is too large")
    return math.prod(range(int(value), 0, -2))
