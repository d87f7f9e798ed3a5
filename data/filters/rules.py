"""Rules that need no model: limits on length and pictures, kinds of answers, duplicates.

    judge = together([at_most_tokens(1024), answer_types(["number", "choice"]), Duplicates()])
    rewrite("runs/all", "runs/clean", "...", judge)

The filters that ask a model (pass rate, needs-image) are in sapo_vl/solve_filters.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sapo_vl.data import images
from sapo_vl.data.filters.decontaminate import picture_hash, words
from sapo_vl.data.rewrite import Judge
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.schema import ANSWER_TYPES, Sample

SAME_BITS = 16
"""Bits that may differ between all pictures of two copies: as much as compressing again changes."""


def together(judges: Sequence[Judge]) -> Judge:
    """Return a judge that gives the first reason that any of `judges` gives."""

    def judge(sample: Sample) -> str | None:
        return next((reason for one in judges if (reason := one(sample))), None)

    return judge


def at_most_characters(limit: int) -> Judge:
    """Drop problems whose text is longer than `limit` characters."""

    def judge(sample: Sample) -> str | None:
        length = len(sample.problem)
        return f"the text is over {limit} characters: {length}" if length > limit else None

    return judge


def at_most_visual_tokens(limit: int) -> Judge:
    """Drop records whose pictures cost more than `limit` tokens, counted from their headers."""

    def judge(sample: Sample) -> str | None:
        tokens = images.tokens(sample.images)
        return f"the images are over {limit} tokens: {tokens}" if tokens > limit else None

    return judge


def at_least_pixels(limit: int) -> Judge:
    """Drop records with a picture of fewer than `limit` pixels: there is little to see in it."""

    def judge(sample: Sample) -> str | None:
        for size in map(images.header_size, sample.images):
            if size.width * size.height < limit:
                return f"an image is under {limit} pixels: {size.width}x{size.height}"
        return None

    return judge


def answer_types(kinds: Sequence[str]) -> Judge:
    """Keep these kinds of answers only.

    Raises:
        ConfigError: one of them is unknown.
    """
    for kind in kinds:
        if kind not in ANSWER_TYPES:
            hint = nearest(kind, ANSWER_TYPES)
            raise ConfigError(
                f"answer-types: {kind!r} is unknown; allowed: {', '.join(ANSWER_TYPES)}{hint}"
            )

    def judge(sample: Sample) -> str | None:
        kind = sample.answer_type
        return None if kind in kinds else f"the answer is not {', '.join(kinds)}: {kind}"

    return judge


class Duplicates:
    """Drop a record whose words, answer and pictures (nearly) came before."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], list[tuple[str, np.ndarray]]] = {}

    def __call__(self, sample: Sample) -> str | None:
        """Return the reason that names the first copy, or None; remembers the sample."""
        found = [picture_hash(images.open_image(data)) for data in sample.images]
        hashes = np.concatenate(found) if found else np.zeros(0, np.uint64)
        before = self._seen.setdefault((sample.answer, *words(sample)), [])
        for first, other in before:
            if len(other) == len(hashes) and _apart(other, hashes) <= SAME_BITS:
                return f"a duplicate: of {first}"
        before.append((sample.id, hashes))
        return None


def _apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ other).sum())
