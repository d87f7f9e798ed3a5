"""Pointing: one point `[x, y]`, inside the gold box or near the gold point.

The gold answer is a box `[x1, y1, x2, y2]` that must contain the point, or a point at a distance of
at most `metadata["radius"]` (10 by default, in the gold answer's units). Several points are wrong:
otherwise enough of them would always hit.
"""

from __future__ import annotations

import math

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.coordinates import coordinates
from sapo_vl.rewards.verifiers.boxes import marked_text
from sapo_vl.schema import Outcome, Sample, Verdict

DEFAULT_RADIUS = 10.0


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the one point hits. Raises DataError for a gold without a target."""
    targets = coordinates(sample.answer)
    if isinstance(targets, str) or len(targets) != 1:
        raise DataError(f"record {sample.id!r}: the gold point {sample.answer[:80]!r} is no target")
    gold = targets[0]
    text = marked_text(response)
    points = coordinates(text)
    shown = text[:200] or None
    if isinstance(points, str):
        return Verdict(Outcome.WRONG, 0.0, points, extracted=shown)
    if len(points) != 1:
        return Verdict(Outcome.WRONG, 0.0, f"{len(points)} points instead of one", extracted=shown)
    point = points[0]
    if len(point) == 4 and point == gold:
        point = ((point[0] + point[2]) / 2, (point[1] + point[3]) / 2)
    if len(point) != 2:
        return Verdict(Outcome.WRONG, 0.0, f"{list(point)} is not one point", extracted=shown)
    if len(gold) == 4:
        hit = gold[0] <= point[0] <= gold[2] and gold[1] <= point[1] <= gold[3]
    else:
        hit = math.dist(point, gold) <= _radius(sample)
    outcome = Outcome.CORRECT if hit else Outcome.WRONG
    reason = f"{point} {'hits' if hit else 'misses'} {sample.answer[:60]}"
    return Verdict(outcome, float(hit), reason, extracted=shown)


def _radius(sample: Sample) -> float:
    radius = sample.metadata.get("radius")
    if radius is None:
        return DEFAULT_RADIUS
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < 1e6:
        raise DataError(f"record {sample.id!r}: metadata.radius {radius!r} is no positive number")
    return float(radius)
