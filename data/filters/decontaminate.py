"""Find training records that are copies of evaluation records, by their text and their pictures.

    index = Index(store.load("runs/mathvision", "test"))
    match = index.match(sample)        # None, or Match(id, other, text, image)

Texts are compared by the share of common word triples, pictures by a perceptual hash (imagehash's
phash, 256 bits) after white margins are trimmed. A copy may be resized, compressed again, cut by a
few per cent and reworded: every evaluation picture is also hashed with its sides cut. A match is a
picture that is nearly the same, or one that is similar under a similar text, or the same long text.
docs/data.md has the measurement that the thresholds come from.

Left out: mirrored, rotated and recoloured copies, and translated texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops

from sapo_vl.data import images
from sapo_vl.schema import IMAGE_MARK, Sample

HASH_SIDE = 16
"""The hash has 16 x 16 bits: 8 x 8 confuse line drawings."""

SAME_PICTURE = 32
"""Bits of 256 that may differ when the picture alone decides."""

SIMILAR_PICTURE = 92
"""Bits that may differ under a text of at least `SIMILAR_TEXT`."""

SIMILAR_TEXT, SAME_TEXT = 0.5, 0.75
"""Common word triples over all of them (Dice)."""

LONG_TEXT = 15
"""Words; shorter texts ("Find x.") are the same in many problems, and never decide alone."""

CUTS = (0.0, 0.02)
"""Shares of a side that a copy may have lost, at each end."""

MARGIN = 64
"""Grey levels below white that still count as margin: compression leaves a veil around lines."""

_WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Match:
    """A record and the evaluation record it is a copy of."""

    id: str  # of the record that was asked about
    other: str  # of the evaluation record, its data set before it
    text: float  # share of common word triples, 0 to 1
    image: int | None  # bits of 256 that differ in the nearest pictures, None without pictures

    @property
    def reason(self) -> str:
        """Both pieces of evidence in words."""
        bits = "no picture" if self.image is None else f"{self.image} bits"
        return f"{self.other} (text {self.text:.2f}, {bits})"


class Index:
    """The evaluation records to keep out, prepared for comparison."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        """Hash every text and picture. Raises DataError for a picture that cannot be read."""
        self.names: list[str] = []
        self._sizes: list[int] = []  # word triples of each record
        self._words: list[int] = []
        self._holders: dict[tuple[str, ...], list[int]] = {}
        owners: list[int] = []
        hashes: list[np.ndarray] = []
        for number, sample in enumerate(samples):
            self.names.append(f"{sample.dataset}/{sample.id}")
            own = words(sample)
            triples = _triples(own)
            self._sizes.append(len(triples))
            self._words.append(len(own))
            for triple in triples:
                self._holders.setdefault(triple, []).append(number)
            for data in sample.images:
                found = list(_variants(images.open_image(data)))
                hashes += found
                owners += [number] * len(found)
        self._owners = np.array(owners, dtype=np.int64)
        self._hashes = np.array(hashes, dtype=np.uint64).reshape(len(hashes), HASH_SIDE**2 // 64)

    def match(self, sample: Sample) -> Match | None:
        """Return the evaluation record that `sample` is a copy of, the likeliest one, or None.

        Raises:
            DataError: a picture cannot be read.
        """
        own = words(sample)
        texts = self._texts(own)
        bits = self._bits(sample)
        best: Match | None = None
        for number in {*texts, *bits}:
            text, image = texts.get(number, 0.0), bits.get(number)
            if not self._is_copy(number, text, image, len(own)):
                continue
            found = Match(sample.id, self.names[number], text, image)
            if best is None or _weight(found) > _weight(best):
                best = found
        return best

    def _is_copy(self, number: int, text: float, image: int | None, length: int) -> bool:
        if image is not None and image <= SAME_PICTURE:
            return True
        if image is not None and image <= SIMILAR_PICTURE and text >= SIMILAR_TEXT:
            return True
        return text >= SAME_TEXT and min(length, self._words[number]) >= LONG_TEXT

    def _texts(self, found: list[str]) -> dict[int, float]:
        """Return the Dice share of each record that has a word triple in common."""
        own = _triples(found)
        common = Counter(n for triple in own for n in self._holders.get(triple, ()))
        return {n: 2 * c / (len(own) + self._sizes[n]) for n, c in common.items()}

    def _bits(self, sample: Sample) -> dict[int, int]:
        """Return the differing bits of each record with a similar picture."""
        nearest: dict[int, int] = {}
        for data in sample.images if len(self._owners) else ():
            own = picture_hash(images.open_image(data))
            bits = np.bitwise_count(self._hashes ^ own).sum(axis=1)
            for row in np.flatnonzero(bits <= SIMILAR_PICTURE):
                number = int(self._owners[row])
                nearest[number] = min(nearest.get(number, HASH_SIDE**2), int(bits[row]))
        return nearest


def picture_hash(image: Image.Image) -> np.ndarray:
    """Return the perceptual hash of a picture without its white margins: uint64 [4]."""
    bits = _phash()(trimmed(image), hash_size=HASH_SIDE).hash
    return np.packbits(bits.reshape(-1)).view(np.uint64)


def trimmed(image: Image.Image) -> Image.Image:
    """Return a picture as grey, without the margins that are as white as paper."""
    grey = image.convert("L")
    ink = ImageChops.invert(grey).point(lambda level: 255 if level > MARGIN else 0)
    box = ink.getbbox()
    return grey.crop(box) if box else grey


def _variants(image: Image.Image) -> Iterator[np.ndarray]:
    """Yield the hashes of a picture and of itself with its sides cut."""
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
                    yield picture_hash(image.crop(box))


def words(sample: Sample) -> list[str]:
    """Return the words and numbers of a problem in lower case."""
    return [w.casefold() for w in _WORD.findall(sample.problem.replace(IMAGE_MARK, " "))]


def _triples(found: list[str]) -> set[tuple[str, ...]]:
    """Return the word triples; a text of one or two words is one shorter tuple."""
    if len(found) < 3:
        return {tuple(found)} if found else set()
    return set(zip(found, found[1:], found[2:], strict=False))


def _weight(match: Match) -> float:
    return match.text + (0 if match.image is None else 1 - match.image / HASH_SIDE**2)


@cache
def _phash():  # type: ignore[no-untyped-def]  # noqa: ANN202
    import imagehash  # over half a second, and only needed here

    return imagehash.phash
