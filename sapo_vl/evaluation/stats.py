"""Repeated samples and uncertainty: avg@n, pass@k, bootstrap intervals, paired tests.

All resample or permute problems, never single responses: responses to one problem are not
independent. Where problems are variants of one (DynaMath's ten, MathVerse's versions), the family
is resampled: `families` maps a problem to it, and a problem that is not there is its own.
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
NONE: Mapping[str, str] = {}


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the unbiased estimate 1 - C(n - c, k) / C(n, k) (Chen et al., 2107.03374).

    `n` samples of a problem, `right` of them correct; 1 <= k <= n.
    """
    assert 0 <= right <= n, (n, right)
    assert 1 <= k <= n, (n, k)
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def shares(verdicts: Iterable[tuple[str, bool | None]]) -> dict[str, list[bool]]:
    """Group verdicts by problem; those without one are left out."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for problem, correct in verdicts:
        if correct is not None:
            groups[problem].append(correct)
    return dict(groups)


def repeated(
    verdicts: Sequence[tuple[str, bool | None]], families: Mapping[str, str] = NONE
) -> dict[str, Any]:
    """Return n, avg@n with its interval and pass@k for k = 1, 2, 4, .. n; empty when n is 1.

    Where problems have unequal numbers of samples, n is the smallest.
    """
    groups = shares(verdicts)
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
    means: np.ndarray, problems: Sequence[str], families: Mapping[str, str] = NONE
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of `means` [problems]."""
    if len(means) == 0:
        return (0.0, 0.0)
    sums, sizes = _by_family(means, problems, families)
    draws = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.percentile(sums[draws].sum(axis=1) / sizes[draws].sum(axis=1), [2.5, 97.5])
    return (float(low), float(high))


def _by_family(
    values: np.ndarray, problems: Sequence[str], families: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of the values of each family, in order of appearance."""
    place: dict[str, int] = {}
    index = [place.setdefault(families.get(name, name), len(place)) for name in problems]
    return np.bincount(index, values), np.bincount(index)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same problems; shares between 0 and 1."""

    problems: int  # that both have
    first: float  # mean accuracy of the first
    second: float
    difference: float  # second - first
    ci95: tuple[float, float]  # bootstrap over problems of the difference
    gained: int  # problems where the second's share is higher
    lost: int
    p_value: float  # two-sided sign flips over problems (families); exact McNemar if n is 1


def paired(
    first: Mapping[str, list[bool]],
    second: Mapping[str, list[bool]],
    families: Mapping[str, str] = NONE,
) -> Paired:
    """Compare two models on the problems that both have. Raises ValueError when there is none."""
    common = [name for name in first if name in second]
    if not common:
        raise ValueError("the two have no problem in common")
    a = np.array([np.mean(first[name]) for name in common])
    b = np.array([np.mean(second[name]) for name in common])
    gap = b - a
    gained, lost = int((gap > 0).sum()), int((gap < 0).sum())
    sums, sizes = _by_family(gap, common, families)
    alone = bool((sizes == 1).all())
    binary = alone and all(len(first[n]) == len(second[n]) == 1 for n in common)
    p = mcnemar(gained, lost) if binary else sign_flip(sums)
    return Paired(
        len(common), float(a.mean()), float(b.mean()), float(gap.mean()),
        interval(gap, common, families), gained, lost, p,
    )  # fmt: skip


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test on the discordant problems."""
    n, k = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)


def sign_flip(gap: np.ndarray) -> float:
    """Return the two-sided p-value of the sum of differences under random signs of each."""
    gap = gap[gap != 0]
    if len(gap) == 0:
        return 1.0
    draw = np.random.default_rng(0)
    beyond = 0
    for _ in range(PERMUTATIONS // 100):
        signs = draw.choice((-1.0, 1.0), (100, len(gap)))
        beyond += int((np.abs(signs @ gap) >= abs(gap.sum()) - 1e-12).sum())
    return (beyond + 1) / (PERMUTATIONS + 1)
