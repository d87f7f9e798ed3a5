"""Grounding with boxes `[x1, y1, x2, y2]`: one-to-one matching, and extra boxes cost precision.

The score is 2 * (sum of the matched IoUs) / (gold boxes + answered boxes), the F1 of soft matches.
Correct means: as many boxes as the gold has, each matched with IoU of at least `MIN_IOU`. A box
needs four finite ordered numbers and an area; coordinates are the gold's, nothing is rescaled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.extract import answer_part, last_box, last_tag
from sapo_vl.schema import Outcome, Sample, Verdict

MIN_IOU = 0.5
MAX_BOXES = 256
MAX_COORDINATE = 1e6
_LIST = re.compile(r"\[\s*([^\[\]]{1,200}?)\s*\]")

Box = tuple[float, float, float, float]


def score(sample: Sample, response: str) -> Verdict:
    """Return the matching score. Raises DataError for a gold without proper boxes."""
    gold = read(sample.answer)
    if not gold or isinstance(gold, str):
        raise DataError(f"record {sample.id!r}: the gold boxes {sample.answer[:80]!r}: {gold}")
    text = marked_text(response)
    found = read(text)
    if isinstance(found, str):
        return Verdict(Outcome.WRONG, 0.0, found, extracted=text[:200] or None)
    overlaps = match(gold, found)
    value = 2 * sum(overlaps) / (len(gold) + len(found))
    right = len(found) == len(gold) and len(overlaps) == len(gold) and min(overlaps) >= MIN_IOU
    reason = f"{len(overlaps)} of {len(gold)} boxes matched by {len(found)}, score {value:.3f}"
    outcome = Outcome.CORRECT if right else Outcome.WRONG
    return Verdict(outcome, value, reason, extracted=text[:200])


def marked_text(response: str) -> str:
    """Return what stands in the last `<answer>` or `\\boxed{}`, else all after thinking."""
    text = answer_part(response) or ""
    if (tag := last_tag(text)) is not None:
        return tag.answer or ""
    box = last_box(response)
    return (box.answer or "") if box.marked else text


def read(text: str) -> list[Box] | str:
    """Return the boxes in `text`, or in words why they are none."""
    boxes = []
    for inside in _LIST.findall(text):
        numbers = numbers_of(inside)
        if numbers is None or len(numbers) != 4:
            return f"[{inside[:60]}] is not four finite numbers"
        x1, y1, x2, y2 = numbers
        if x1 >= x2 or y1 >= y2:
            return f"[{inside[:60]}] has no area"
        boxes.append((x1, y1, x2, y2))
    if not boxes:
        return "no box found"
    return boxes if len(boxes) <= MAX_BOXES else f"more than {MAX_BOXES} boxes"


def numbers_of(text: str) -> list[float] | None:
    """Return comma-separated finite numbers, None when one is not."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    fine = all(math.isfinite(n) and abs(n) <= MAX_COORDINATE for n in numbers)
    return numbers if fine else None


def iou(a: Box, b: Box) -> float:
    """Return intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def match(gold: Sequence[Box], found: Sequence[Box]) -> list[float]:
    """Return the IoUs of a one-to-one matching, best pairs first."""
    pairs = sorted(
        ((iou(g, f), i, j) for i, g in enumerate(gold) for j, f in enumerate(found)), reverse=True
    )
    used_gold: set[int] = set()
    used_found: set[int] = set()
    overlaps = []
    for overlap, i, j in pairs:
        if overlap > 0 and i not in used_gold and j not in used_found:
            used_gold.add(i)
            used_found.add(j)
            overlaps.append(overlap)
    return overlaps
