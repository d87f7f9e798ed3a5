"""Drop training records that are copies of evaluation records, compared by text and images.

    index = Index(store.load("runs/mathvision", "test"))
    match = index.match(sample)        # None, or Match(id, other, text, image)
    decontaminate("runs/all", "runs/clean", index, RewriteOptions("decontaminate .."))

Texts are compared by their shared word trigrams (Dice), images by a perceptual hash (imagehash's
phash, 256 bits) after trimming white margins. A copy may be resized, recompressed, cropped by a few
per cent and reworded: every evaluation image is also hashed with its sides cut. A match is an
almost identical image, a similar image with a similar text, or the same long text. docs/data.md has
the measurement behind the thresholds.

Not detected: mirrored, rotated and recoloured copies, and translated texts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from sapo_vl.data import images
from sapo_vl.data.atomic import atomic_path
from sapo_vl.data.report import Report
from sapo_vl.data.rewrite import RewriteOptions, rewrite
from sapo_vl.schema import IMAGE_MARK, Sample

HASH_SIDE = 16
"""The hash has 16 x 16 bits; 8 x 8 bits confuse line drawings."""

SAME_IMAGE = 32
"""Hash bits of 256 that may differ for a match by image alone."""

SIMILAR_IMAGE = 92
"""Hash bits that may differ for a match with a text similarity of `SIMILAR_TEXT`."""

SIMILAR_TEXT, SAME_TEXT = 0.5, 0.75
"""Text similarity: Dice coefficient of the word trigrams, 0 to 1."""

LONG_TEXT = 15
"""Words. Shorter texts ("Find x.") recur in many problems and never make a match alone."""

CUTS = (0.0, 0.02)
"""Shares of a side that a copy may have been cropped by, at each end."""

MARGIN = 64
"""Grey levels below white that count as margin; JPEG leaves artefacts around lines."""

_WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Match:
    """A training record and the evaluation record it copies."""

    id: str  # of the training record
    other: str  # "dataset/id" of the evaluation record
    text: float  # Dice coefficient of the word trigrams, 0 to 1
    image: int | None  # differing hash bits (of 256) of the closest images; None: none is similar

    @property
    def reason(self) -> str:
        """The evidence in words."""
        bits = "no similar image" if self.image is None else f"{self.image} bits"
        return f"{self.other} (text {self.text:.2f}, {bits})"


class Index:
    """Trigrams and image hashes of the evaluation records."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        """Index every text and image. Raises DataError for an image that cannot be decoded."""
        self.names: list[str] = []  # "dataset/id" of record n
        self._num_trigrams: list[int] = []
        self._num_words: list[int] = []
        self._records_with: dict[tuple[str, ...], list[int]] = {}  # trigram -> records
        hash_records: list[int] = []
        hashes: list[np.ndarray] = []
        for number, sample in enumerate(samples):
            self.names.append(f"{sample.dataset}/{sample.id}")
            text = words(sample)
            trigrams = _trigrams(text)
            self._num_trigrams.append(len(trigrams))
            self._num_words.append(len(text))
            for trigram in trigrams:
                self._records_with.setdefault(trigram, []).append(number)
            for data in sample.images:
                variants = list(_variants(images.open_image(data)))
                hashes += variants
                hash_records += [number] * len(variants)
        self._hash_records = np.array(hash_records, dtype=np.int64)
        self._hashes = np.array(hashes, dtype=np.uint64).reshape(len(hashes), HASH_SIDE**2 // 64)

    def match(self, sample: Sample) -> Match | None:
        """Return the most similar evaluation record that `sample` copies, or None.

        Raises:
            DataError: an image cannot be decoded.
        """
        text = words(sample)
        similarities = self._text_similarities(text)
        distances = self._image_distances(sample)
        best: Match | None = None
        for number in {*similarities, *distances}:
            similarity, distance = similarities.get(number, 0.0), distances.get(number)
            if not self._is_copy(number, similarity, distance, len(text)):
                continue
            match = Match(sample.id, self.names[number], similarity, distance)
            if best is None or _strength(match) > _strength(best):
                best = match
        return best

    def _is_copy(
        self, number: int, similarity: float, distance: int | None, num_words: int
    ) -> bool:
        if distance is not None and distance <= SAME_IMAGE:
            return True
        if distance is not None and distance <= SIMILAR_IMAGE and similarity >= SIMILAR_TEXT:
            return True
        return similarity >= SAME_TEXT and min(num_words, self._num_words[number]) >= LONG_TEXT

    def _text_similarities(self, text: list[str]) -> dict[int, float]:
        """Return the Dice coefficient of each record that shares a trigram."""
        trigrams = _trigrams(text)
        shared = Counter(n for trigram in trigrams for n in self._records_with.get(trigram, ()))
        return {n: 2 * c / (len(trigrams) + self._num_trigrams[n]) for n, c in shared.items()}

    def _image_distances(self, sample: Sample) -> dict[int, int]:
        """Return the fewest differing hash bits of each record with a similar image."""
        nearest: dict[int, int] = {}
        for data in sample.images if len(self._hash_records) else ():
            bits = np.bitwise_count(self._hashes ^ image_hash(images.open_image(data))).sum(axis=1)
            for row in np.flatnonzero(bits <= SIMILAR_IMAGE):
                number = int(self._hash_records[row])
                nearest[number] = min(nearest.get(number, HASH_SIDE**2), int(bits[row]))
        return nearest


def matches_file(out: Path) -> Path:
    """Return the file beside `out` that `decontaminate` writes the matches to."""
    return out.with_name(f"{out.name}.matches.jsonl")


def decontaminate(
    source: Path,
    out: Path,
    index: Index,
    options: RewriteOptions,
    *,
    tick: Callable[[Report], None] | None = None,
) -> Report:
    """Copy `source` to `out` without the records that match `index`; list the matches as JSONL.

    `options.stateful` must be True, so that a resumed pass lists all matches.

    Raises:
        DataError: as `rewrite`, or an image cannot be decoded.
    """
    assert options.stateful, options
    with (
        atomic_path(matches_file(out)) as temporary,
        temporary.open("w", encoding="utf-8") as lines,
    ):

        def drop_reason(sample: Sample) -> str | None:
            match = index.match(sample)
            if match is None:
                return None
            lines.write(json.dumps(asdict(match)) + "\n")
            return f"a copy of an evaluation record: {match.reason}"

        return rewrite(source, out, drop_reason, options, tick=tick)


def image_hash(image: Image.Image) -> np.ndarray:
    """Return the perceptual hash of an image without its white margins: uint64 [4]."""
    bits = _phash()(trimmed(image), hash_size=HASH_SIDE).hash
    return np.packbits(bits.reshape(-1)).view(np.uint64)


def trimmed(image: Image.Image) -> Image.Image:
    """Return an image in grey without its white margins."""
    grey = image.convert("L")
    ink = ImageChops.invert(grey).point(lambda level: 255 if level > MARGIN else 0)
    box = ink.getbbox()
    return grey.crop(box) if box else grey


def _variants(image: Image.Image) -> Iterator[np.ndarray]:
    """Yield the hashes of an image and of its crops by `CUTS`."""
    width, height = image.size
    seen: set[tuple[int, int, int, int]] = set()
    for x in CUTS:
        for y in CUTS:
            for left, top, right, bottom in ((x, y, 0, 0), (0, 0, x, y), (x, y, x, y)):
                box = (
                    round(left * width),
                    round(top * height),
                    width - round(right * width),
                    height - round(bottom * height),
                )
                if box not in seen and box[2] > box[0] and box[3] > box[1]:
                    seen.add(box)
                    yield image_hash(image.crop(box))


def words(sample: Sample) -> list[str]:
    """Return the words and numbers of a problem, case-folded."""
    return [w.casefold() for w in _WORD.findall(sample.problem.replace(IMAGE_MARK, " "))]


def _trigrams(text: list[str]) -> set[tuple[str, ...]]:
    """Return the word trigrams; a text of one or two words gives one shorter tuple."""
    if len(text) < 3:
        return {tuple(text)} if text else set()
    return set(zip(text, text[1:], text[2:], strict=False))


def _strength(match: Match) -> float:
    return match.text + (0 if match.image is None else 1 - match.image / HASH_SIDE**2)


@cache
def _phash():  # type: ignore[no-untyped-def]  # noqa: ANN202
    import imagehash  # takes over half a second to import

    return imagehash.phash
