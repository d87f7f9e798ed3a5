"""Verdicts on a bare gold and answer, without extraction, processes or caches of verdicts."""

from __future__ import annotations

from sapo_vl.rewards.parsing.equality import same
from sapo_vl.rewards.parsing.exact_decider import ExactDecider, Tolerance
from sapo_vl.rewards.parsing.latex import clean


def fast(gold: str, answer: str) -> bool | None:
    """Return what exact arithmetic and the grammar say; None where it needs computer algebra."""
    return same(clean(gold), clean(answer), ExactDecider(Tolerance()))


def symbolic(gold: str, answer: str) -> bool:
    """Return what a worker says, in this process; imports sympy. Raises OverLimitError."""
    from sapo_vl.rewards.parsing.symbolic import equal

    return equal(clean(gold), clean(answer), Tolerance()).equal
