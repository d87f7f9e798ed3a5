"""How responses lie in micro-batches: pure planning, no model.

A `TrainRow` is one response with its prompt and the numbers its loss needs. A plan cuts a
mini-batch's rows into micro-batches under a token budget, largest first, so that running out of
memory happens in the first step. The result does not depend on how the rows are spread: weights
carry one global denominator (see sapo.py). A micro-batch is a list of rows, which are the very
objects that were given: that is the map back to responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sapo_vl.model.prompts import Prompt


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


def plan_padded(rows: Sequence[TrainRow], budget: int) -> list[list[TrainRow]]:
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


def plan_shared(rows: Sequence[TrainRow], budget: int) -> list[list[TrainRow]]:
    """Cut rows into micro-batches of at most `budget` tokens, a prompt counted once per batch.

    Rows of one prompt object stay together; a group that is longer than the budget is split, and
    each part pays for the prompt again. Largest groups first, each into the first micro-batch that
    has room (first fit decreasing). A single row longer than the budget gets one of its own.
    """
    by_prompt: dict[int, list[TrainRow]] = {}
    for row in rows:
        by_prompt.setdefault(id(row.prompt), []).append(row)
    parts = [part for group in by_prompt.values() for part in _split(group, budget)]
    parts.sort(key=shared_tokens, reverse=True)  # stable: equal parts keep the given order
    batches: list[list[TrainRow]] = []
    room: list[int] = []
    for part in parts:
        cost = shared_tokens(part)
        place = next((i for i, free in enumerate(room) if free >= cost), None)
        if place is None:
            batches.append([])
            room.append(budget)
            place = len(batches) - 1
        batches[place].extend(part)
        room[place] -= cost
    return batches


def shared_tokens(group: Sequence[TrainRow]) -> int:
    """Return the tokens that rows of one prompt take in a packed row.

    The prompt once, and each response without its last token, from which nothing is predicted.
    """
    return len(group[0].prompt.expanded_ids) + sum(len(row.token_ids) - 1 for row in group)


def _split(group: list[TrainRow], budget: int) -> list[list[TrainRow]]:
    parts: list[list[TrainRow]] = []
    for row in group:
        if not parts or shared_tokens([*parts[-1], row]) > budget:
            parts.append([])
        parts[-1].append(row)
    return parts


PLANS: dict[str, Callable[[Sequence[TrainRow], int], list[list[TrainRow]]]] = {
    "shared_prefix": plan_shared,
    "padded": plan_padded,
}
"""learner.packing -> how its micro-batches are cut."""


def filler(rows: Sequence[TrainRow]) -> TrainRow:
    """Return the shortest row as one that does not count, for ranks with fewer micro-batches."""
    return replace(min(rows, key=lambda row: row.length), counts=False)
