r"""Compare two sympy expressions by their values at fixed points. Runs in a worker only.

A difference at a point means not equal. A point counts where every even root and logarithm of both
sides is real: `\sqrt{ab}` and `\sqrt{a}\sqrt{b}` differ for negative a and b only in what they mean
there. Odd roots are real (`\sqrt[3]{-8}` is -2). Factorials and binomials of symbols are compared
at small integers. Values agree to 40 digits first; equal ones are then compared to 400, which tells
`\sqrt{2}` from `\sqrt{2} + 10^{-30}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import sympy
from sympy.core.function import AppliedUndef

from sapo_vl.rewards.parsing.answer_values import Tristate
from sapo_vl.rewards.parsing.exact_decider import Tolerance
from sapo_vl.rewards.parsing.rationals import OverLimitError

DIGITS = 40
AGREE = sympy.Rational(1, 10**25)  # relative difference treated as 0, at 40 digits
PROOF_DIGITS = 400
PROVED = sympy.Rational(1, 10**380)  # the same at 400 digits
MAX_EXPONENT = 1000  # with a larger one two different numbers can agree to 400 digits
REAL_POINTS, MORE_POINTS = (0, 1, 2), (3, 4)
MIXED_POINT = 1  # of these coordinates one symbol's is made negative
MAX_MIXED = 4
_INTEGERS = (
    (7, 3, 5, 2, 4, 6),
    (3, 7, 2, 5, 6, 4),
    (9, 4, 2, 6, 3, 5),
    (4, 9, 6, 3, 5, 2),
    (6, 5, 4, 3, 2, 7),
)
_COMBINATORIAL = (sympy.factorial, sympy.binomial, sympy.factorial2, sympy.gamma)
_UNEVALUATED = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)


class AtPoint(NamedTuple):
    """What one point says."""

    same: Tristate  # None where a side has no value
    counts: bool  # both sides are real there, with all their roots and logarithms


def names(expression: Any) -> set[str]:
    """Return the names of the free symbols."""
    return {symbol.name for symbol in getattr(expression, "free_symbols", ())}


def compare_values(gold: Any, answer: Any, tolerance: Tolerance) -> Tristate:
    """Compare two expressions at the points; None when too few of them say anything."""
    if has_symbolic_factorial(gold) or has_symbolic_factorial(answer):
        return _at_integers(gold, answer)
    is_constant = not names(gold) | names(answer)
    found: list[AtPoint] = []
    for point in (0,) if is_constant else (*REAL_POINTS, *MORE_POINTS):
        if point in MORE_POINTS and sum(f.counts and f.same is True for f in found) >= 2:
            break
        found.append(at_point(gold, answer, point, tolerance))
        if found[-1].same is False and (found[-1].counts or is_constant):
            return False
    counted = [f for f in found if f.counts and f.same is True]
    others = [f.same for i, f in enumerate(found) if not f.counts and i != 2]
    if len(counted) >= 2 and _differ_in_sign(gold, answer, tolerance):
        return False
    if is_constant:
        equal = found[0].same
    elif len(counted) >= 2:
        equal = True
    else:  # principal values, where nothing is real
        equal = False if False in others else len(counted) + others.count(True) >= 2 or None
    if equal is True and tolerance == Tolerance():
        return _is_proved(gold, answer, next(i for i, f in enumerate(found) if f.same is True))
    return equal


def _differ_in_sign(gold: Any, answer: Any, tolerance: Tolerance) -> bool:
    r"""Whether two expressions with roots differ where one symbol alone is negative.

    `\sqrt{x^2 y}` is `|x|\sqrt{y}` and not `x\sqrt{y}`.
    """
    symbols = sorted(names(gold) | names(answer))
    if not 1 < len(symbols) <= MAX_MIXED or not (_has_root(gold) or _has_root(answer)):
        return False
    found = (at_point(gold, answer, MIXED_POINT, tolerance, symbol) for symbol in symbols)
    return any(f.counts and f.same is False for f in found)


def _has_root(expression: Any) -> bool:
    return expression.has(sympy.Abs, sympy.log) or any(
        node.exp.is_Rational and node.exp.q > 1 for node in expression.atoms(sympy.Pow)
    )


def at_point(
    gold: Any, answer: Any, point: int, tolerance: Tolerance, negative: str = ""
) -> AtPoint:
    """Compare two expressions at one point, to 40 digits; `negative` names a symbol."""
    left, right = (value_at(side, point, negative=negative) for side in (gold, answer))
    if left is None or right is None:
        return AtPoint(None, False)
    gap, size = abs(left - right), max(abs(left), abs(right))
    same = bool(gap <= AGREE * size)
    if not same and tolerance.rel_tol is not None:
        same = bool(gap <= tolerance.rel_tol * abs(left))
    if not same and tolerance.precision is not None:
        same = bool(gap <= sympy.Rational(1, 2 * 10**tolerance.precision))
    return AtPoint(same, all(is_real_at(side, point, negative) for side in (gold, answer)))


def value_at(expression: Any, point: int, digits: int = DIGITS, negative: str = "") -> Any:
    """Return the value at a point, or None when it isn't a finite number."""
    if not isinstance(expression, sympy.Expr) or expression.has(AppliedUndef):
        return None
    try:
        value = _with_real_roots(
            expression.subs(_values(expression, point, negative)).doit()
        ).evalf(digits)
    except Exception:  # poles, unknown functions: no value here
        return None
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    return value


def is_real_at(expression: Any, point: int, negative: str = "") -> bool:
    """Whether the arguments of all even roots and logarithms are positive at a point."""
    values = _values(expression, point, negative)
    for node in sympy.preorder_traversal(expression):
        is_root = node.is_Pow and node.exp.is_Rational and node.exp.q % 2 == 0
        if not is_root and not isinstance(node, sympy.log):
            continue
        argument = (node.base if is_root else node.args[0]).subs(values).evalf(15)
        if not argument.is_extended_nonnegative:
            return False
    return True


def _values(expression: Any, point: int, negative: str) -> dict[Any, Any]:
    values = {
        symbol: sympy.I if symbol.name == "i" else coordinate(symbol.name, point)
        for symbol in sorted(expression.free_symbols, key=lambda s: s.name)
    }
    return {s: -value if s.name == negative else value for s, value in values.items()}


def coordinate(name: str, point: int) -> sympy.Rational:
    """Return a fixed rational per symbol.

    Points 0 and 3 are in (0, 1), 1 and 4 above 1 (each pair in opposite order), 2 is negative.
    """
    spread = sum((i + 1) * ord(c) for i, c in enumerate(name)) % 997
    return (
        sympy.Rational(311 + spread, 1511),
        sympy.Rational(2003 + 7 * spread, 1009),
        -sympy.Rational(701 + 3 * spread, 907),
        sympy.Rational(1201 - spread, 1307),
        sympy.Rational(9001 - 5 * spread, 1013),
    )[point]


def _with_real_roots(expression: Any) -> Any:
    """Return the expression with real odd roots of negative numbers; complex ones stay."""
    if expression.has(sympy.I):
        return expression
    return expression.replace(
        lambda e: (
            e.is_Pow
            and e.exp.is_Rational
            and e.exp.q % 2 == 1
            and e.exp.q > 1
            and e.base.is_number
            and e.base.is_extended_negative
        ),
        lambda e: (-1) ** e.exp.p * (-e.base) ** e.exp,
    )


def has_symbolic_factorial(expression: Any) -> bool:
    """Whether an expression has a factorial or binomial of a symbol."""
    return isinstance(expression, sympy.Basic) and any(
        node.free_symbols for node in expression.atoms(*_COMBINATORIAL)
    )


def _at_integers(gold: Any, answer: Any) -> Tristate:
    """Compare at small integers; points at which a side isn't defined don't count."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=lambda s: s.name)
    if len(symbols) > len(_INTEGERS[0]):
        return None
    agreeing = 0
    for integers in _INTEGERS:
        point = dict(zip(symbols, integers, strict=False))
        left, right = (sympy.nsimplify(side.subs(point).doit()) for side in (gold, answer))
        if any(side.has(sympy.zoo, sympy.nan, sympy.oo) for side in (left, right)):
            continue
        if abs((left - right).evalf(DIGITS)) > AGREE * abs(left).evalf(DIGITS):
            return False
        agreeing += 1
    return True if agreeing >= 2 else None


def _is_proved(gold: Any, answer: Any, point: int) -> bool:
    """Whether two expressions that agree to 40 digits agree to 400 as well.

    Raises OverLimitError where even those don't prove that two numbers are equal.
    """
    if gold == answer or any(side.has(*_UNEVALUATED) for side in (gold, answer)):
        return True
    left, right = (value_at(side, point, PROOF_DIGITS) for side in (gold, answer))
    if left is None or right is None:
        return True
    if abs(left - right) > PROVED * max(abs(left), abs(right)):
        return False
    is_extreme = any(map(_is_extreme, (*_powers(gold), *_powers(answer))))
    if is_extreme and sympy.powsimp(gold - answer) != 0:
        raise OverLimitError("equal to 400 digits, but not proved equal")
    return True


def _powers(expression: Any) -> Iterable[Any]:
    return (node.exp for node in sympy.preorder_traversal(expression) if node.is_Pow)


def _is_extreme(exponent: Any) -> bool:
    return bool(exponent.is_Rational and max(abs(exponent.p), exponent.q) > MAX_EXPONENT)
