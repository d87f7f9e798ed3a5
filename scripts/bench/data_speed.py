"""Two measurements of the data pipelines; the figures are in docs/data.md.

    python -m bench.data_speed decontamination --raw DIR    # planted copies among other records
    python -m bench.data_speed preparation --raw DIR        # records/s and memory, MathVision

DIR holds samples of data sets in their original layouts, a folder each (mathvision, wemath, ..).
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
OTHERS = ("wemath", "mmk12", "geometry3k", "logicvista", "dynamath", "tabmwp", "mathverse")
CUT, QUALITY, EDITED = 0.03, 60, 0.1
"""A copy loses 3 % of each side, is a JPEG of quality 60, and has a tenth of its words edited."""


@dataclass(frozen=True, slots=True)
class Planted:
    """The result of the first measurement."""

    copies: int
    found: int  # copies that were matched with their original
    others: int
    false_alarms: int  # other records that were matched with anything
    seconds: float  # for all records, without the index


def planted(raw: Path, *, seed: int, copies: int, others: int) -> Planted:
    """Disturb MathVision items, hide them among other records and look for them."""
    rng = Random(seed)
    items = list(_samples(raw, EVALUATION))
    chosen = rng.sample(items, copies)
    kept = {sample.id for sample in chosen}
    rest = [s for s in items if s.id not in kept]
    pool = rest + list(chain.from_iterable(_samples(raw, name) for name in OTHERS))
    index = Index(chosen)
    hidden = [disturbed(sample, rng) for sample in chosen]
    started = time.perf_counter()
    matches = [index.match(sample) for sample in hidden]
    found = sum(
        match is not None and match.other == f"{EVALUATION}/{sample.id}"
        for match, sample in zip(matches, chosen, strict=True)
    )
    several = rng.sample(pool, others)
    alarms = sum(index.match(sample) is not None for sample in several)
    return Planted(copies, found, len(several), alarms, time.perf_counter() - started)


def disturbed(sample: Sample, rng: Random) -> Sample:
    """Return a copy as a crawler might have it: cut, resized, compressed, lightly edited."""
    pictures = tuple(_disturbed_picture(data, rng) for data in sample.images)
    words = sample.problem.split(" ")
    plain = [i for i, word in enumerate(words) if IMAGE_MARK not in word]
    for i in rng.sample(plain, max(1, round(EDITED * len(plain)))):
        words[i] = rng.choice((words[i].upper(), words[i] + ",", "the", "that"))
    return replace(sample, id=f"copy-{sample.id}", images=pictures, problem=" ".join(words))


def _disturbed_picture(data: bytes, rng: Random) -> bytes:
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
    found = source_function(name)(raw / name)
    return (record for record in found if not isinstance(record, Dropped))


def _decontamination(raw: Path) -> None:
    for seed in range(5):
        result = planted(raw, seed=seed, copies=50, others=1000)
        print(
            f"seed {seed}: {result.found} of {result.copies} copies found, "
            f"{result.false_alarms} of {result.others} others matched, {result.seconds:.1f} s"
        )


def repeated(source: str) -> Iterator[Sample]:
    """Yield MathVision's records over and over; `source` is "DIR:how many"."""
    raw, _, count = source.rpartition(":")
    every = chain.from_iterable(_samples(Path(raw), EVALUATION) for _ in repeat(None))
    for number, sample in enumerate(islice(every, int(count))):
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


MEASUREMENTS = {"decontamination": _decontamination, "preparation": _preparation}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--raw", type=Path, required=True)
    arguments = parser.parse_args()
    MEASUREMENTS[arguments.what](arguments.raw)
