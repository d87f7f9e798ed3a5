"""The verifier for mixed data: dispatches on `sample.answer_type`.

A gold answer of the type `text` that the parser reads as mathematics (`5 cm`, a matrix, `x = 3, y =
4`) is graded as mathematics: data sets written by others guess the type from two letters.
"""

from __future__ import annotations

from collections.abc import Callable

from sapo_vl.errors import DataError, nearest
from sapo_vl.rewards.parsing.gold import read_gold
from sapo_vl.rewards.pool.client import resolve
from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import boxes, choice, count, maths, point, text
from sapo_vl.schema import Sample, Verdict

MATHEMATICAL = ("number", "expression", "equation", "tuple", "interval", "set")

ROUTES: dict[str, Callable[[Sample, str], Verdict | NeedsWorker]] = {
    **dict.fromkeys(MATHEMATICAL, maths.decide_fast),
    "choice": choice.score,
    "multi_choice": choice.score,
    "count": count.score,
    "boxes": boxes.score,
    "point": point.score,
    "text": text.score,
}
"""Answer type -> verifier; every one of schema.ANSWER_TYPES."""


def decide_fast(sample: Sample, response: str) -> Verdict | NeedsWorker:
    """Return the verdict, or the question that a worker has to decide.

    Raises DataError for an unknown answer type and for a gold answer that can't be read.
    """
    if sample.answer_type not in ROUTES:
        raise DataError(
            f"record {sample.id!r}: answer_type {sample.answer_type!r} is unknown; allowed: "
            f"{', '.join(ROUTES)}{nearest(sample.answer_type, ROUTES)}"
        )
    if sample.answer_type == "text" and _is_mathematics(sample.answer):
        return maths.decide_fast(sample, response)
    return ROUTES[sample.answer_type](sample, response)


def _is_mathematics(gold: str) -> bool:
    """Whether a gold text is mathematics and more than letters (`AB`, `B` and `no` are words)."""
    has_signs = any(char.isdigit() or char in "\\=<>^" for char in gold)
    return has_signs and read_gold(gold).answer_type != "text"


def score(sample: Sample, response: str) -> Verdict:
    """Return the verdict on one response, asking the shared worker pool where it is needed."""
    return resolve(decide_fast(sample, response))
