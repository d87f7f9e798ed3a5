"""Benchmarks of the data pipelines; results are in docs/data.md.

    PYTHONPATH=scripts python -m bench.data_speed decontamination --raw DIR
    PYTHONPATH=scripts python -m bench.data_speed preparation --raw DIR

The first measures recall on planted near-duplicates, the second records/s and peak memory.

DIR holds data sets in their original layouts, one folder each (mathvision, wemath, ..).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain, islice, repeat
from pathlib import Path
from random import Random

from PIL import Image

from sapo_vl.data import Dropped, images
from sapo_vl.data.filters.decontaminate import Index
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.source_loader import source_function
from sapo_vl.schema import IMAGE_MARK, Sample

EVALUATION = "mathvision"
UNRELATED_SOURCES = (
    "wemath",
    "mmk12",
    "geometry3k",
    "logicvista",
    "dynamath",
    "tabmwp",
    "mathverse",
)
CUT, QUALITY, EDITED = 0.03, 60, 0.1
"""A near-duplicate: cropped by 3 % per side, JPEG quality 60, a tenth of its words edited."""


@dataclass(frozen=True, slots=True)
class Planted:
    """The result of the decontamination benchmark."""

    copies: int
    matched: int  # copies matched with their original
    unrelated: int
    false_positives: int  # unrelated records matched with anything
    seconds: float  # to match all records, without building the index


def planted(raw: Path, *, seed: int, copies: int, unrelated: int) -> Planted:
    """Match near-duplicates of MathVision items and unrelated records against the index."""
    rng = Random(seed)
    items = list(_samples(raw, EVALUATION))
    chosen = rng.sample(items, copies)
    chosen_ids = {sample.id for sample in chosen}
    rest = [s for s in items if s.id not in chosen_ids]
    pool = rest + list(chain.from_iterable(_samples(raw, name) for name in UNRELATED_SOURCES))
    index = Index(chosen)
    near_duplicates = [disturbed(sample, rng) for sample in chosen]
    started = time.perf_counter()
    matches = [index.match(sample) for sample in near_duplicates]
    matched = sum(
        match is not None and match.other == f"{EVALUATION}/{sample.id}"
        for match, sample in zip(matches, chosen, strict=True)
    )
    drawn = rng.sample(pool, unrelated)
    false = sum(index.match(sample) is not None for sample in drawn)
    return Planted(copies, matched, len(drawn), false, time.perf_counter() - started)


def disturbed(sample: Sample, rng: Random) -> Sample:
    """Return a near-duplicate: cropped, resized, recompressed images and a lightly edited text."""
    pictures = tuple(_disturbed_image(data, rng) for data in sample.images)
    words = sample.problem.split(" ")
    plain = [i for i, word in enumerate(words) if IMAGE_MARK not in word]
    for i in rng.sample(plain, max(1, round(EDITED * len(plain)))):
        words[i] = rng.choice((words[i].upper(), words[i] + ",", "the", "that"))
    return replace(sample, id=f"copy-{sample.id}", images=pictures, problem=" ".join(words))


def _disturbed_image(data: bytes, rng: Random) -> bytes:
    image = images.open_image(data)
    width, height = image.size
    left, top = rng.uniform(0, CUT), rng.uniform(0, CUT)
    box = (left * width, top * height, (1 + left - CUT) * width, (1 + top - CUT) * height)
    image = image.crop(tuple(map(round, box)))  # type: ignore[arg-type]
    scale = rng.choice((0.5, 0.7, 1.3, 1.6))
    size = (max(8, round(scale * image.width)), max(8, round(scale * image.height)))
    jpeg = BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=QUALITY)
    return jpeg.getvalue()


def _samples(raw: Path, name: str) -> Iterator[Sample]:
    records = source_function(name)(raw / name)
    return (record for record in records if not isinstance(record, Dropped))


def _decontamination(raw: Path) -> None:
    for seed in range(5):
        result = planted(raw, seed=seed, copies=50, unrelated=1000)
        print(
            f"seed {seed}: {result.matched} of {result.copies} copies matched, "
            f"{result.false_positives} of {result.unrelated} unrelated records matched, "
            f"{result.seconds:.1f} s"
        )


def repeated(source: str) -> Iterator[Sample]:
    """Cycle through MathVision's records; `source` is "DIR:COUNT"."""
    raw, _, count = source.rpartition(":")
    cycled = chain.from_iterable(_samples(Path(raw), EVALUATION) for _ in repeat(None))
    for number, sample in enumerate(islice(cycled, int(count))):
        yield replace(sample, id=f"{sample.id}-{number}")


def _preparation(raw: Path) -> None:
    for count in (1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            report = prepare(
                f"{__file__}:repeated",
                PrepareOptions(Path(folder) / "set", source=f"{raw}:{count}"),
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rate = report.read / report.seconds
        print(f"{report.read} records: {rate:.0f} records/s, peak memory {peak:.0f} MiB")


BENCHMARKS = {"decontamination": _decontamination, "preparation": _preparation}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--raw", type=Path, required=True)
    arguments = parser.parse_args()
    BENCHMARKS[arguments.benchmark](arguments.raw)
