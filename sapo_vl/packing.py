"""How responses lie in micro-batches: pure planning, no model.

A `TrainRow` is one response with its prompt and the numbers its loss needs. `plan` cuts a
mini-batch's rows into micro-batches under a token budget, longest first, so that running out of
memory happens in the first step. The result does not depend on how the rows are spread: weights
carry one global denominator (see sapo.py).

Left out: sharing of a group's prompt between its responses, which is the packed layout's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sapo_vl.prompts import Prompt


@dataclass(slots=True)
class TrainRow:
    """One response as the learner sees it. T is its number of tokens."""

    prompt: Prompt
    token_ids: list[int]  # [T], the end token included
    advantage: float = 0.0  # of the response; 0 gives no gradient
    generator_logprobs: np.ndarray | None = None  # [T] log mu; none in supervised warm-up
    old_logprobs: np.ndarray | None = None  # [T] log pi_old; none: taken from the same forward
    counts: bool = True  # False: only fills up a rank's micro-batches, weight 0

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt.expanded_ids) + len(self.token_ids)


def plan(rows: Sequence[TrainRow], budget: int) -> list[list[TrainRow]]:
    """Cut rows into micro-batches of at most `budget` padded tokens each, longest rows first.

    A row longer than the budget gets a micro-batch of its own. The order is a function of the
    lengths and the given order alone.
    """
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].length, i))
    batches: list[list[TrainRow]] = []
    for i in order:
        longest = batches[-1][0].length if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(rows[i])
    return batches


def filler(rows: Sequence[TrainRow]) -> TrainRow:
    """Return the shortest row as one that does not count, for ranks with fewer micro-batches."""
    return replace(min(rows, key=lambda row: row.length), counts=False)
