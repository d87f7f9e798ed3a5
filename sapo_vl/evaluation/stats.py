"""Repeated samples and uncertainty: avg@n, pass@k, bootstrap intervals, paired tests.

Problems are resampled and permuted, never single responses, because responses to one problem are
not independent. Where problems are variants of one (DynaMath's ten, MathVerse's versions), the
whole family is resampled: `families` maps a problem to its family; a problem without an entry is a
family of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
PERMUTATIONS = 10_000
BATCH = 100
"""Permutations held in memory at once, each an array over problems."""

NO_FAMILIES: Mapping[str, str] = {}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the unbiased estimate 1 - C(n - c, k) / C(n, k) (Chen et al., 2107.03374).

    `n` samples of a problem, `correct` of them correct; 1 <= k <= n.
    """
    assert 0 <= correct <= n, (n, correct)
    assert 1 <= k <= n, (n, k)
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def group_verdicts(verdicts: Iterable[tuple[str, bool | None]]) -> dict[str, list[bool]]:
    """Group verdicts by problem; responses without a verdict (None) are left out."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for problem, correct in verdicts:
        if correct is not None:
            groups[problem].append(correct)
    return dict(groups)


def repeated_samples(
    verdicts: Sequence[tuple[str, bool | None]], families: Mapping[str, str] = NO_FAMILIES
) -> dict[str, Any]:
    """Return n, avg@n with its interval and pass@k for k = 1, 2, 4, .. n; empty when n is 1.

    Where problems have unequal numbers of samples, n is the smallest.
    """
    groups = group_verdicts(verdicts)
    n = min(map(len, groups.values()), default=0)
    if n < 2:
        return {}
    means = np.array([np.mean(v) for v in groups.values()])
    ks = sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    return {
        "n": n,
        f"avg@{n}": float(means.mean()),
        "ci95": list(interval(means, list(groups), families)),
        **{
            f"pass@{k}": float(np.mean([pass_at_k(len(v), sum(v), k) for v in groups.values()]))
            for k in ks
        },
    }


def interval(
    means: np.ndarray, problems: Sequence[str], families: Mapping[str, str] = NO_FAMILIES
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of `means` [problems].

    Families are resampled with replacement, 2000 times from seed 0; a resample's mean is over its
    problems. A single family has an interval of width 0.
    """
    from scipy import stats

    if len(means) == 0:
        return (0.0, 0.0)
    sums, sizes = _by_family(means, problems, families)
    if len(sums) == 1:  # scipy refuses to resample one observation
        return (float(means.mean()), float(means.mean()))
    result = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return (float(low), float(high))


def _by_family(
    values: np.ndarray, problems: Sequence[str], families: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the count of each family's values, in order of first appearance."""
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(families.get(name, name), len(numbers)) for name in problems]
    return np.bincount(index, values), np.bincount(index)


@dataclass(frozen=True, slots=True)
class Paired:
    """Comparison of two models on the problems that both answered; shares between 0 and 1."""

    problems: int  # in common
    first: float  # mean accuracy of the first model
    second: float
    difference: float  # second - first
    ci95: tuple[float, float]  # bootstrap over problems of the difference
    gained: int  # problems where the second's share is higher
    lost: int
    p_value: float  # two-sided sign flips over problems (families); exact McNemar if n is 1


def paired(
    first: Mapping[str, list[bool]],
    second: Mapping[str, list[bool]],
    families: Mapping[str, str] = NO_FAMILIES,
) -> Paired:
    """Compare two models on their common problems. Raises ValueError if there are none."""
    common = [name for name in first if name in second]
    if not common:
        raise ValueError("the two have no problem in common")
    a = np.array([np.mean(first[name]) for name in common])
    b = np.array([np.mean(second[name]) for name in common])
    gap = b - a
    gained, lost = int((gap > 0).sum()), int((gap < 0).sum())
    sums, sizes = _by_family(gap, common, families)
    one_sample = all(len(first[name]) == len(second[name]) == 1 for name in common)
    exact = one_sample and bool((sizes == 1).all())
    return Paired(
        problems=len(common),
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(gap.mean()),
        ci95=interval(gap, common, families),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost) if exact else sign_flip(sums),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test on the discordant problems."""
    from scipy import stats

    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def sign_flip(gaps: np.ndarray) -> float:
    """Return the two-sided p-value of the sum of `gaps` under random signs.

    Exact up to 13 non-zero gaps (2**13 sign patterns), else from 10,000 random ones of seed 0.
    """
    from scipy import stats

    gaps = gaps[gaps != 0]
    if len(gaps) < 2:  # one gap: both of its signs are as extreme
        return 1.0
    result = stats.permutation_test(
        (gaps,),
        lambda gaps, axis: gaps.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=BATCH,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)
