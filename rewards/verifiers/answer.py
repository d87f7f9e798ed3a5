"""The verifier for mixed data: `sample.answer_type` picks the rule."""

from __future__ import annotations

from collections.abc import Callable

from sapo_vl.errors import DataError, nearest
from sapo_vl.rewards.verifiers import boxes, choice, count, maths, point, text
from sapo_vl.rewards.verifiers.maths import Pending
from sapo_vl.schema import Sample, Verdict

ROUTES: dict[str, Callable[[Sample, str], Verdict | Pending]] = {
    "number": maths.first_look,
    "expression": maths.first_look,
    "equation": maths.first_look,
    "tuple": maths.first_look,
    "interval": maths.first_look,
    "set": maths.first_look,
    "choice": choice.score,
    "multi_choice": choice.score,
    "count": count.score,
    "boxes": boxes.score,
    "point": point.score,
    "text": text.score,
}


def first_look(sample: Sample, response: str) -> Verdict | Pending:
    """Return the verdict, or the question that is left for a worker."""
    if sample.answer_type not in ROUTES:
        raise DataError(
            f"record {sample.id!r}: answer_type {sample.answer_type!r} is unknown; allowed: "
            f"{', '.join(ROUTES)}{nearest(sample.answer_type, ROUTES)}"
        )
    return ROUTES[sample.answer_type](sample, response)


def score(sample: Sample, response: str) -> Verdict:
    """Return the verdict on one response, asking the shared worker pool where that is needed."""
    return maths.decided(first_look(sample, response))
