"""Which server samples which prompt: the longest first, each to the least loaded server."""

from __future__ import annotations

from collections.abc import Sequence


def spread(costs: Sequence[int], servers: int) -> list[list[int]]:
    """Return for each server the indices of its prompts, the same for the same costs.

    `costs` are tokens, at least one each. Graham's rule: no server gets more than 4/3 of the least
    possible maximum. Worked example: costs 5, 3, 4 on two servers are [[0], [2, 1]].
    """
    shares: list[list[int]] = [[] for _ in range(servers)]
    loads = [0] * servers
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(servers), key=lambda s: (loads[s], s))
        shares[least].append(index)
        loads[least] += costs[index]
    return shares
