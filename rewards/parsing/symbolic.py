"""Decide by computer algebra whether two expressions are equal. Runs in a worker only.

math-verify's LaTeX grammar parses the text into a sympy object (never `parse_expr`, `sympify` or
anything else that evaluates a string). Both objects are compared by their values (points.py). A
decimal is the exact number as written, so a rounded value doesn't equal the exact one and 2^-99
doesn't equal 2^-98. Only an expression that can't be evaluated goes to `math_verify.verify`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import LatexExtractionConfig, verify
from math_verify.grader import should_treat_as_complex

from sapo_vl.rewards.parsing import equality
from sapo_vl.rewards.parsing.answer_values import Relation, Tristate
from sapo_vl.rewards.parsing.exact_decider import (
    LONG_DECIMAL,
    ExactDecider,
    Tolerance,
    decimal_step,
)
from sapo_vl.rewards.parsing.geometry import named_quantities
from sapo_vl.rewards.parsing.guards import check
from sapo_vl.rewards.parsing.points import (
    AGREE,
    compare_values,
    has_symbolic_factorial,
    names,
    value_at,
)
from sapo_vl.rewards.parsing.rationals import OverLimitError

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
        gold, answer = named_quantities(gold, answer)
        left, right = self._read(gold), self._read(answer)
        if left is None or right is None:
            return None
        result = compare(left, right, self.tolerance)
        if result is False and "." not in gold and (step := decimal_step(answer, LONG_DECIMAL)):
            return _is_within(left, right, step)
        return result

    def rounding(self, exact: str, rounded: str) -> Tristate:
        """Whether `rounded` is within one unit of its last place, or 1 %, of `exact`."""
        result = super().rounding(exact, rounded)
        if result is not None or self.over_limit:
            return result
        left, right = self._read(exact), self._read(rounded)
        if left is None or right is None or names(left) | names(right):
            return None
        return _is_within(left, right, decimal_step(rounded) or Fraction(1), relative=0.01)

    def relation(self, gold: Relation, answer: Relation) -> Tristate:
        """Compare two relations: equal when left - right of one is a multiple of the other's."""
        if gold == answer:
            return True
        if len(gold.operators) != len(answer.operators):
            return False
        texts = named_quantities("\0".join(gold.sides), "\0".join(answer.sides))
        gold, answer = (
            replace(side, sides=tuple(text.split("\0")))
            for side, text in zip((gold, answer), texts, strict=True)
        )
        for relation in (answer, _mirrored(answer)):
            if relation.operators == gold.operators:
                sides = [self.number(g, a) for g, a in zip(gold.sides, relation.sides, strict=True)]
                if all(side is True for side in sides):
                    return True
        if len(gold.operators) != 1:
            return False
        return self._one_equation(gold, answer)

    def _one_equation(self, gold: Relation, answer: Relation) -> Tristate:
        left, right = self._difference(gold), self._difference(answer)
        if left is None or right is None:
            return None
        is_flipped = gold.operators[0] != answer.operators[0]
        if is_flipped and _FLIPPED[gold.operators[0]] != answer.operators[0]:
            return False
        factor = _constant_ratio(left, right)
        if factor is None:
            is_equation = gold.operators == answer.operators == ("=",)
            return is_equation and self._is_solved(left, answer)
        if gold.operators[0] in ("=", "\\ne"):
            return True
        return bool((factor < 0) == is_flipped) if factor.is_real else False

    def _is_solved(self, gold_difference: Any, answer: Relation) -> bool:
        """Whether `letter = ...` is the gold equation solved for a letter that it is linear in."""
        letter, value = (self._read(side) for side in answer.sides)
        if not isinstance(letter, sympy.Symbol) or not isinstance(value, sympy.Expr):
            return False
        if letter in value.free_symbols or letter not in gold_difference.free_symbols:
            return False
        numerator = sympy.numer(sympy.together(gold_difference))
        if not numerator.is_polynomial(letter) or sympy.degree(numerator, letter) != 1:
            return False
        return compare(gold_difference.subs(letter, value), sympy.S.Zero, Tolerance()) is True

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
    if "!!" in text:  # the grammar reads it as the factorial of the factorial
        expression = expression.replace(
            lambda e: isinstance(e, sympy.factorial) and isinstance(e.args[0], sympy.factorial),
            lambda e: sympy.factorial2(e.args[0].args[0]),
        )
    exact = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    return expression.xreplace(exact) if exact else expression


def compare(gold: Any, answer: Any, tolerance: Tolerance) -> Tristate:
    """Compare two sympy objects by their values, or else with math-verify."""
    answer = _with_integer_names(gold, answer)
    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        result = compare_values(gold, answer, tolerance)
        if result is not None or has_symbolic_factorial(gold):
            return result
    try:
        return bool(verify(gold, answer, timeout_seconds=None, strict=True))
    except Exception:  # undecided
        return None


def _with_integer_names(gold: Any, answer: Any) -> Any:
    """Rename a lone integer parameter to the gold's: `k\\pi` and `n\\pi` are the same solutions."""
    left, right = names(gold), names(answer)
    if (
        len(left) == len(right) == 1
        and left != right
        and left | right <= _INTEGER_NAMES
        and gold.has(sympy.pi)
    ):
        return answer.subs(dict.fromkeys(answer.free_symbols, next(iter(gold.free_symbols))))
    return answer


def _constant_ratio(left: Any, right: Any) -> Any:
    """Return c where left = c * right at all points, None when there is no such number."""
    if names(left) != names(right):
        return None
    ratios = []
    for point in range(3):
        above, below = value_at(left, point), value_at(right, point)
        if above is None or below is None or below == 0 or above == 0:
            return None
        ratios.append(above / below)
    if all(abs(r - ratios[0]) <= AGREE * abs(ratios[0]) for r in ratios):
        return ratios[0]
    return None


def _is_within(gold: Any, answer: Any, step: Fraction, relative: float = 0.0) -> bool:
    """Whether two constants differ by less than `step` or by a share of the gold."""
    if names(gold):
        return False
    left, right = value_at(gold, 0), value_at(answer, 0)
    if left is None or right is None:
        return False
    step = sympy.Rational(step.numerator, step.denominator)
    return bool(abs(left - right) <= max(step, relative * abs(left)))


def _mirrored(relation: Relation) -> Relation:
    return Relation(relation.sides[::-1], tuple(_FLIPPED[op] for op in relation.operators[::-1]))


def _uses_both_cases(text: str) -> bool:
    letters = {c for c in re.sub(r"\\[a-zA-Z]+", "", text) if c.isalpha()}
    return any(c.swapcase() in letters for c in letters)
