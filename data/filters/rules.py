"""Record filters without a model: limits on text and images, answer types, duplicates.

    keep = all_of([at_most_visual_tokens(1024), answer_types(["number", "choice"]), Duplicates()])
    rewrite("runs/all", "runs/clean", keep, RewriteOptions("..", stateful=True))

The filters that need a model (pass rate, needs-image) are in sapo_vl/evaluation/pass_rate.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sapo_vl.data import images
from sapo_vl.data.filters.decontaminate import image_hash, words
from sapo_vl.data.rewrite import RecordFilter
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.schema import ANSWER_TYPES, Sample

SAME_BITS = 16
"""Hash bits that may differ over all images of two duplicates: the effect of recompression."""


def all_of(filters: Sequence[RecordFilter]) -> RecordFilter:
    """Return a filter that drops what any of `filters` drops, for the first one's reason."""

    def drop_reason(sample: Sample) -> str | None:
        return next((reason for one in filters if (reason := one(sample))), None)

    return drop_reason


def at_most_characters(limit: int) -> RecordFilter:
    """Drop problems whose text is longer than `limit` characters."""

    def drop_reason(sample: Sample) -> str | None:
        length = len(sample.problem)
        return f"the text is over {limit} characters: {length}" if length > limit else None

    return drop_reason


def at_most_visual_tokens(limit: int) -> RecordFilter:
    """Drop records whose images take more than `limit` visual tokens, counted from headers."""

    def drop_reason(sample: Sample) -> str | None:
        tokens = images.count_tokens(sample.images)
        return f"the images are over {limit} tokens: {tokens}" if tokens > limit else None

    return drop_reason


def at_least_pixels(limit: int) -> RecordFilter:
    """Drop records with an image of fewer than `limit` pixels."""

    def drop_reason(sample: Sample) -> str | None:
        for size in map(images.header_size, sample.images):
            if size.width * size.height < limit:
                return f"an image is under {limit} pixels: {size.width}x{size.height}"
        return None

    return drop_reason


def answer_types(kinds: Sequence[str]) -> RecordFilter:
    """Drop records whose answer type is not one of `kinds`.

    Raises:
        ConfigError: a type is unknown.
    """
    for kind in kinds:
        if kind not in ANSWER_TYPES:
            hint = nearest(kind, ANSWER_TYPES)
            raise ConfigError(
                f"answer-types: {kind!r} is unknown; allowed: {', '.join(ANSWER_TYPES)}{hint}"
            )

    def drop_reason(sample: Sample) -> str | None:
        kind = sample.answer_type
        return None if kind in kinds else f"the answer is not {', '.join(kinds)}: {kind}"

    return drop_reason


class Duplicates:
    """Drop a record if an earlier one has the same words and answer and nearly the same images.

    Stateful: it remembers every record it keeps.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], list[tuple[str, np.ndarray]]] = {}

    def __call__(self, sample: Sample) -> str | None:
        """Return the reason, which names the first copy, or None; remember the sample."""
        image_hashes = [image_hash(images.open_image(data)) for data in sample.images]
        hashes = np.concatenate(image_hashes) if image_hashes else np.zeros(0, np.uint64)
        candidates = self._seen.setdefault((sample.answer, *words(sample)), [])
        for first_id, first_hashes in candidates:
            if len(first_hashes) != len(hashes):
                continue
            if np.bitwise_count(first_hashes ^ hashes).sum() <= SAME_BITS:
                return f"a duplicate: of {first_id}"
        candidates.append((sample.id, hashes))
        return None
