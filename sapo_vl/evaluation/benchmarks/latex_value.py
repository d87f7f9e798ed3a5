"""Numeric value of a LaTeX answer, as the official rules of MathVision and EMMA read it.

The official rule is `eval(str(latex2sympy(x)))` with latex2sympy2 1.9.1. That package pins antlr4
4.7.2, which conflicts with math-verify's 4.13, and `eval` on a model's text is ruled out here; so
the rule is rebuilt from its behaviour. Oddities kept, because the published labels depend on them:

- the longest readable beginning counts: `4\\sqrt{2}}.theansweris` is 4 sqrt(2);
- `2:3` is a quotient, `6\\frac{1}{4}` and `37 25/27` are products (no mixed numbers);
- `1,234` is 1234, but `1\\,234` is 1 * 234;
- a prime is nothing, so `5'4` is 20, but no letter may follow it; `\\{3\\}` is 3;
- `5\\%` is a hundredth of 5, but `\\frac{1}{2}\\%` has no value;
- a name without a value, a list, a relation: no number.

Left out: what the grammar reads beyond arithmetic, roots, logarithms and trigonometry (matrices,
integrals, limits, sums); such an answer has no value here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

MAX_CHARS = 2000
MAX_DEPTH = 60
MAX_BITS = 20_000  # of an integer power; beyond it the power is a float, and may overflow

Number = int | float

_TOKEN = re.compile(
    r"(?P<number>\d*(?:,\d{3})*\.\d+|\d+(?:,\d{3})*)"
    r"|(?P<command>\\end\{[bpv]?matrix\}|\\[a-zA-Z]+|\\[%{}|])"
    r"|(?P<stop>tr|rank|rref|gcd|lcm|cols|rows)|(?P<name>[a-zA-Z])|(?P<sign>.)",
    re.DOTALL,
)
_BLANKS = re.compile(r"\\displaystyle|\\qquad|\\quad|\\left(?![a-z])|\\right(?![a-z])|\\,|~|\$|\s")
_CONSTANTS = {"\\pi": math.pi}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "\\sin": math.sin, "\\cos": math.cos, "\\tan": math.tan, "\\arcsin": math.asin,
    "\\arccos": math.acos, "\\arctan": math.atan, "\\ln": math.log, "\\exp": math.exp,
    "\\sinh": math.sinh, "\\cosh": math.cosh, "\\tanh": math.tanh, "\\log": math.log10,
    "\\lg": math.log10,
}  # fmt: skip
_TIMES = ("*", "\\times", "\\cdot")
_OVER = ("/", "\\div", ":")
_CLOSING = {"(": ")", "{": "}", "[": "]", "\\{": "\\}"}
_MATRIX_ENDS = ("\\end{matrix}", "\\end{bmatrix}", "\\end{pmatrix}", "\\end{vmatrix}")
_ENDS = ("", "}", ")", "]", ".", "_", "&", "\\}", "\\to", "\\rightarrow", *_MATRIX_ENDS)
"""Tokens that may follow the readable beginning."""


class _UnreadableError(ValueError):
    """The text has no numeric value by this rule."""


def value(text: str) -> Number | None:
    """Return the number of the longest readable beginning of `text`, or None. Bounded work."""
    if len(text) > MAX_CHARS:
        return None
    try:
        number = _ValueParser(_BLANKS.sub(" ", text)).whole()
        return number if math.isfinite(number) else None  # raises for an integer beyond a float
    except (_UnreadableError, ArithmeticError, ValueError):
        return None


def rounded(text: str) -> Number | None:
    """Return `value` rounded to the two decimals that both official rules compare."""
    number = value(text)
    return None if number is None else round(number, 2)


class _ValueParser:
    """Recursive descent over the tokens of one answer."""

    def __init__(self, text: str) -> None:
        self.tokens = [m for m in _TOKEN.finditer(text) if m[0] != " "]
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return str(self.tokens[self.at].lastgroup) if self.at < len(self.tokens) else ""

    def is_joined(self) -> bool:
        """Return whether no space precedes the next token."""
        return self.tokens[self.at].start() == self.tokens[self.at - 1].end()

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][0]

    def expect(self, sign: str) -> None:
        if self.peek() != sign:
            raise _UnreadableError(f"{sign!r} is missing")
        self.at += 1

    def whole(self) -> Number:
        total = self.sum(0)
        if self.peek() not in _ENDS and self.kind() != "stop":
            raise _UnreadableError(f"{self.peek()!r} continues it, so it is not a number")
        return total

    def sum(self, depth: int) -> Number:
        if depth > MAX_DEPTH:
            raise _UnreadableError("nested too deep")
        total = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = self.take()
            term = self.product(depth)
            total = total + term if sign == "+" else total - term
        return total

    def product(self, depth: int) -> Number:
        result = self.signed(depth)
        while self.peek() in _TIMES + _OVER:
            is_product = self.take() in _TIMES
            factor = self.signed(depth)
            result = result * factor if is_product else result / factor
        return result

    def signed(self, depth: int) -> Number:
        if self.peek() in ("+", "-"):
            if depth > MAX_DEPTH:
                raise _UnreadableError("too many signs")
            negative = self.take() == "-"
            operand = self.signed(depth + 1)
            return -operand if negative else operand
        result = self.power(depth)
        while self.starts_factor():
            result = result * self.power(depth)
        return result

    def starts_factor(self) -> bool:
        return (
            self.kind() in ("number", "name", "command") or self.peek() in ("(", "{", "[")
        ) and self.peek() not in _TIMES + _OVER + _ENDS

    def power(self, depth: int) -> Number:
        base = self.atom(depth)
        while self.peek() in ("!", "'"):
            if self.take() == "!":
                if not isinstance(base, int) or not 0 <= base <= 1000:
                    raise _UnreadableError("a factorial out of bounds")
                base = math.factorial(base)
        if self.peek() == "^":
            self.take()
            base = _raise(base, self.exponent(depth))
        return base

    def atom(self, depth: int) -> Number:
        kind, token = self.kind(), self.peek()
        if kind == "number":
            plain = self.take().replace(",", "")
            if len(plain) > 400:
                raise _UnreadableError("too many digits")
            number = float(plain) if "." in plain else int(plain)
            if self.peek() == "\\%" and self.is_joined():
                self.take()
                return number / 100
            return number
        if token in _CLOSING:
            self.take()
            inner = self.sum(depth + 1)
            self.expect(_CLOSING[token])
            return inner
        if token in _CONSTANTS:
            return _CONSTANTS[self.take()]
        if token == "e":
            return self.exponential(depth)
        if token in ("\\frac", "\\dfrac", "\\tfrac"):
            self.take()
            top = self.argument(depth)
            return top / self.argument(depth)
        if token == "\\binom":
            self.take()
            return _binomial(self.argument(depth), self.argument(depth))
        if token == "\\sqrt":
            return self.root(depth)
        if token in _FUNCTIONS:
            return self.function(depth)
        raise _UnreadableError(f"no number starts with {token!r}")

    def argument(self, depth: int) -> Number:
        """Read `{...}`; `\\frac12` and `\\sqrt3` have no value by this rule."""
        self.expect("{")
        inner = self.sum(depth + 1)
        self.expect("}")
        return inner

    def exponent(self, depth: int) -> Number:
        """Read an exponent, in braces or not."""
        return self.argument(depth) if self.peek() == "{" else self.atom(depth + 1)

    def exponential(self, depth: int) -> Number:
        """Read `e^x`; a lone e has no value by this rule."""
        self.take()
        self.expect("^")
        return math.exp(self.exponent(depth))

    def root(self, depth: int) -> Number:
        self.take()
        degree: Number = 2
        if self.peek() == "[":
            self.take()
            degree = self.sum(depth + 1)
            self.expect("]")
        radicand = self.argument(depth)
        if radicand < 0:
            raise _UnreadableError("a root of a negative number")
        return math.sqrt(radicand) if degree == 2 else float(radicand) ** (1 / degree)

    def function(self, depth: int) -> Number:
        name = self.take()
        base = None
        if name == "\\log" and self.peek() == "_":
            self.take()
            base = self.exponent(depth)
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.exponent(depth)
        inside = self.signed(depth + 1)
        result = _FUNCTIONS[name](inside) if base is None else math.log(inside, base)
        return result if exponent is None else _raise(result, exponent)


def _raise(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        if exponent >= 0 and base.bit_length() * exponent <= MAX_BITS:
            return int(base**exponent)
        return float(base) ** exponent
    if base < 0 and exponent != int(exponent):
        raise _UnreadableError("a power that is not real")
    return float(base) ** exponent


def _binomial(n: Number, k: Number) -> Number:
    if not isinstance(n, int) or not isinstance(k, int) or not 0 <= k <= n <= 2000:
        raise _UnreadableError("a binomial out of bounds")
    return math.comb(n, k)
