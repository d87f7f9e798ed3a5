"""Grounding with boxes `[x1, y1, x2, y2]`: one-to-one matching; extra boxes cost precision.

The score is 2 * (sum of the matched IoUs) / (gold boxes + answered boxes), a soft F1. Correct: as
many boxes as the gold answer has, each matched with an IoU of at least `MIN_IOU`. A box is four
finite ordered numbers with a positive area, or two points, in the gold answer's coordinates;
nothing is rescaled. parsing/coordinates.py has the forms that are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.coordinates import coordinates
from sapo_vl.rewards.parsing.extract import answer_part, last_box, last_tag
from sapo_vl.schema import Outcome, Sample, Verdict

MIN_IOU = 0.5
MAX_BOXES = 256

Box = tuple[float, float, float, float]


def score(sample: Sample, response: str) -> Verdict:
    """Return the matching score. Raises DataError for a gold answer without valid boxes."""
    gold = parse_boxes(sample.answer)
    if not gold or isinstance(gold, str):
        raise DataError(f"record {sample.id!r}: the gold boxes {sample.answer[:80]!r}: {gold}")
    text = marked_text(response)
    boxes = parse_boxes(text)
    if isinstance(boxes, str):
        return Verdict(Outcome.WRONG, 0.0, boxes, extracted=text[:200] or None)
    ious = match(gold, boxes)
    value = 2 * sum(ious) / (len(gold) + len(boxes))
    correct = len(boxes) == len(gold) and len(ious) == len(gold) and min(ious) >= MIN_IOU
    reason = f"{len(ious)} of {len(gold)} boxes matched by {len(boxes)}, score {value:.3f}"
    outcome = Outcome.CORRECT if correct else Outcome.WRONG
    return Verdict(outcome, value, reason, extracted=text[:200])


def marked_text(response: str) -> str:
    """Return the content of the last `<answer>` or `\\boxed{}`, else all text after thinking."""
    text = answer_part(response) or ""
    if (tag := last_tag(text)) is not None:
        return tag.answer or ""
    box = last_box(response)
    return (box.answer or "") if box.marked else text


def parse_boxes(text: str) -> list[Box] | str:
    """Return the boxes in `text`, or the reason why it can't be read as boxes."""
    found = coordinates(text)
    if isinstance(found, str):
        return found
    boxes: list[Box] = []
    corner: tuple[float, ...] = ()
    for numbers in found:
        if len(numbers) == 4 and corner:
            break
        if len(numbers) == 2 and not corner:
            corner = numbers
            continue
        x1, y1, x2, y2 = corner + numbers
        corner = ()
        if x1 >= x2 or y1 >= y2:
            return f"{[x1, y1, x2, y2]} has no area"
        boxes.append((x1, y1, x2, y2))
    if corner:
        return f"{list(corner)} is a single point, not a box"
    if not boxes:
        return "no box found"
    return boxes if len(boxes) <= MAX_BOXES else f"more than {MAX_BOXES} boxes"


def iou(a: Box, b: Box) -> float:
    """Return intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return intersection / (areas - intersection)


def match(gold: Sequence[Box], boxes: Sequence[Box]) -> list[float]:
    """Return the IoUs of a greedy one-to-one matching, best pairs first."""
    candidates = sorted(
        ((iou(g, b), i, j) for i, g in enumerate(gold) for j, b in enumerate(boxes)), reverse=True
    )
    matched_gold: set[int] = set()
    matched_boxes: set[int] = set()
    ious = []
    for overlap, i, j in candidates:
        if overlap > 0 and i not in matched_gold and j not in matched_boxes:
            matched_gold.add(i)
            matched_boxes.add(j)
            ious.append(overlap)
    return ious
