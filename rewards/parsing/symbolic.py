"""Decide by computer algebra whether two expressions are equal. Runs in a worker only.

math-verify's LaTeX grammar parses the text into a sympy object (never `parse_expr`, `sympify` or
anything else that evaluates a string). Both objects are evaluated with 40 digits at three rational
points; a difference at any of them means not equal. A decimal is the exact number as written, so a
rounded value doesn't equal the exact one and 2^-99 doesn't equal 2^-98. Only an expression that
can't be evaluated goes to `math_verify.verify`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import LatexExtractionConfig, verify
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef

from sapo_vl.rewards.parsing import equality
from sapo_vl.rewards.parsing.answer_values import Relation, Tristate
from sapo_vl.rewards.parsing.exact_decider import ExactDecider, Tolerance
from sapo_vl.rewards.parsing.guards import check
from sapo_vl.rewards.parsing.rationals import OverLimitError

DIGITS = 40
AGREE = sympy.Rational(1, 10**25)  # relative difference treated as 0, at 40 digits
_NORMALIZATION = replace(LatexExtractionConfig().normalization_config, units=False)
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)°")
_PLAIN_LOG = re.compile(r"\\log(?![a-z_ ]*_)")
_INTEGER_NAMES = {"k", "n", "m", "l"}


class Comparison(NamedTuple):
    """Whether two texts are equal, and why."""

    equal: bool  # False also when it can't be decided
    reason: str


def equal(gold: str, answer: str, tolerance: Tolerance) -> Comparison:
    """Compare two cleaned texts. Raises OverLimitError before any computation without a bound."""
    check(answer)
    decide = SymbolicDecider(tolerance, fold_case=not _uses_both_cases(gold))
    result = equality.same(gold, answer, decide)
    if decide.over_limit:
        raise OverLimitError(decide.over_limit)
    if result is None:
        return Comparison(False, decide.unreadable or "cannot be shown to be equal")
    return Comparison(result, "equal" if result else "not equal")


class SymbolicDecider(ExactDecider):
    """Exact arithmetic first, sympy for the rest."""

    def __init__(self, tolerance: Tolerance, fold_case: bool) -> None:
        super().__init__(tolerance)
        self.fold_case = fold_case
        self.unreadable = ""

    def number(self, gold: str, answer: str) -> Tristate:
        """Compare two expressions; None when one can't be parsed."""
        result = super().number(gold, answer)
        if result is not None or self.over_limit:
            return result
        if ("\\ln" in gold) != ("\\ln" in answer):  # beside \ln, \log is the natural logarithm
            gold, answer = (_PLAIN_LOG.sub(r"\\ln", text) for text in (gold, answer))
        left, right = self._read(gold), self._read(answer)
        if left is None or right is None:
            return None
        return compare(left, right, self.tolerance)

    def relation(self, gold: Relation, answer: Relation) -> Tristate:
        """Compare two relations: equal when left - right of one is a multiple of the other's."""
        if gold == answer:
            return True
        if len(gold.operators) != len(answer.operators):
            return False
        for relation in (answer, _mirrored(answer)):
            if relation.operators == gold.operators:
                sides = [self.number(g, a) for g, a in zip(gold.sides, relation.sides, strict=True)]
                if all(side is True for side in sides):
                    return True
        if len(gold.operators) != 1:
            return False
        left, right = self._difference(gold), self._difference(answer)
        if left is None or right is None:
            return None
        is_flipped = gold.operators[0] != answer.operators[0]
        if is_flipped and _FLIPPED[gold.operators[0]] != answer.operators[0]:
            return False
        factor = _constant_ratio(left, right)
        if factor is None:
            return False
        if gold.operators[0] in ("=", "\\ne"):
            return True
        return bool((factor < 0) == is_flipped) if factor.is_real else False

    def _difference(self, relation: Relation) -> Any:
        left, right = self._read(relation.sides[0]), self._read(relation.sides[1])
        if left is None or right is None:
            return None
        return left - right

    def _read(self, text: str) -> Any:
        try:
            return parse_latex(text, self.fold_case)
        except OverLimitError:
            raise
        except Exception as error:  # the grammar raises many types; recorded as unreadable
            self.unreadable = f"cannot be read as mathematics ({type(error).__name__})"
            return None


@lru_cache(maxsize=256)
def parse_latex(text: str, fold_case: bool = True) -> Any:
    """Return the sympy object of a cleaned text. Raises whatever the grammar raises."""
    check(text)
    if not re.search(r"[\w]", text):
        raise ValueError("no digits and no letters")
    text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)  # degrees inside an expression
    config = ConversionConfig(lowercase_symbols=fold_case)
    normalised = normalize_latex(text, config=_NORMALIZATION)
    expression = latex2sympy(
        normalised,
        is_real=not should_treat_as_complex(normalised),
        convert_degrees=False,
        normalization_config=None,
        conversion_config=config,
    )
    if not isinstance(expression, sympy.Basic):
        return expression
    exact = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    return expression.xreplace(exact) if exact else expression


def compare(gold: Any, answer: Any, tolerance: Tolerance) -> Tristate:
    """Compare two sympy objects at three points, or else with math-verify."""
    answer = _with_integer_names(gold, answer)
    verdicts = [_at_point(gold, answer, i, tolerance) for i in range(3)]
    if False in verdicts:
        return False
    if verdicts.count(True) >= 2 or (verdicts[0] and not _names(gold) | _names(answer)):
        return True
    try:
        return bool(verify(gold, answer, timeout_seconds=None, strict=True))
    except Exception:  # undecided
        return None


def _names(expression: Any) -> set[str]:
    return {symbol.name for symbol in getattr(expression, "free_symbols", ())}


def _with_integer_names(gold: Any, answer: Any) -> Any:
    """Rename a lone integer parameter to the gold's: `k\\pi` and `n\\pi` are the same solutions."""
    left, right = _names(gold), _names(answer)
    if (
        len(left) == len(right) == 1
        and left != right
        and left | right <= _INTEGER_NAMES
        and gold.has(sympy.pi)
    ):
        return answer.subs(dict.fromkeys(answer.free_symbols, next(iter(gold.free_symbols))))
    return answer


def _value_at(expression: Any, point: int) -> Any:
    """Return the value at a point, or None when it isn't a finite number."""
    if not isinstance(expression, sympy.Expr) or expression.has(AppliedUndef):
        return None
    values = {
        symbol: sympy.I if symbol.name == "i" else _coordinate(symbol.name, point)
        for symbol in sorted(expression.free_symbols, key=lambda s: s.name)
    }
    try:
        value = expression.subs(values).doit().evalf(DIGITS)
    except Exception:  # poles, unknown functions: no value here
        return None
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    return value


def _coordinate(name: str, point: int) -> sympy.Rational:
    """Return a fixed rational per symbol: point 0 in (0, 1), point 1 above 1, point 2 negative."""
    spread = sum((i + 1) * ord(c) for i, c in enumerate(name)) % 997
    return [
        sympy.Rational(311 + spread, 1511),
        sympy.Rational(2003 + 7 * spread, 1009),
        -sympy.Rational(701 + 3 * spread, 907),
    ][point]


def _at_point(gold: Any, answer: Any, point: int, tolerance: Tolerance) -> Tristate:
    left, right = _value_at(gold, point), _value_at(answer, point)
    if left is None or right is None:
        return None
    gap, size = abs(left - right), max(abs(left), abs(right))
    if gap <= AGREE * size:
        return True
    if tolerance.rel_tol is not None and gap <= tolerance.rel_tol * abs(left):
        return True
    return bool(
        tolerance.precision is not None and gap <= sympy.Rational(1, 2 * 10**tolerance.precision)
    )


def _constant_ratio(left: Any, right: Any) -> Any:
    """Return c where left = c * right at all points, None when there is no such number."""
    if _names(left) != _names(right):
        return None
    ratios = []
    for point in range(3):
        above, below = _value_at(left, point), _value_at(right, point)
        if above is None or below is None or below == 0 or above == 0:
            return None
        ratios.append(above / below)
    if all(abs(r - ratios[0]) <= AGREE * abs(ratios[0]) for r in ratios):
        return ratios[0]
    return None


def _mirrored(relation: Relation) -> Relation:
    return Relation(relation.sides[::-1], tuple(_FLIPPED[op] for op in relation.operators[::-1]))


def _uses_both_cases(text: str) -> bool:
    letters = {c for c in re.sub(r"\\[a-zA-Z]+", "", text) if c.isalpha()}
    return any(c.swapcase() in letters for c in letters)
