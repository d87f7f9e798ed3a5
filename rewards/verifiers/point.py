"""Pointing: one point `[x, y]`, inside the gold box or near the gold point.

The gold answer is a box `[x1, y1, x2, y2]` that must contain the point, or a point at a distance of
at most `metadata["radius"]` (10 by default, in the gold answer's units). Several points are wrong:
otherwise enough of them would always hit.
"""

from __future__ import annotations

import math
import re

from sapo_vl.errors import DataError
from sapo_vl.rewards.verifiers.boxes import marked_text, parse_numbers
from sapo_vl.schema import Outcome, Sample, Verdict

DEFAULT_RADIUS = 10.0
_PAIR = re.compile(r"[\[(]\s*([^\[\]()]{1,100}?)\s*[\])]")


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT when the one point hits. Raises DataError for a gold without a target."""
    targets = _PAIR.findall(sample.answer)
    gold = parse_numbers(targets[0]) if len(targets) == 1 else None
    if gold is None or len(gold) not in (2, 4):
        raise DataError(f"record {sample.id!r}: the gold point {sample.answer[:80]!r} is no target")
    text = marked_text(response)
    pairs = _PAIR.findall(text)
    if len(pairs) != 1:
        reason = f"{len(pairs)} points instead of one"
        return Verdict(Outcome.WRONG, 0.0, reason, extracted=text[:200] or None)
    point = parse_numbers(pairs[0])
    if point is not None and len(point) == 4 and point == gold:
        point = [(point[0] + point[2]) / 2, (point[1] + point[3]) / 2]
    if point is None or len(point) != 2:
        reason = f"({pairs[0][:60]}) is not two finite numbers"
        return Verdict(Outcome.WRONG, 0.0, reason, extracted=text[:200])
    if len(gold) == 4:
        hit = gold[0] <= point[0] <= gold[2] and gold[1] <= point[1] <= gold[3]
    else:
        hit = math.dist(point, gold) <= float(sample.metadata.get("radius", DEFAULT_RADIUS))
    outcome = Outcome.CORRECT if hit else Outcome.WRONG
    reason = f"({pairs[0][:60]}) {'hits' if hit else 'misses'} {sample.answer[:60]}"
    return Verdict(outcome, float(hit), reason, extracted=text[:200])
