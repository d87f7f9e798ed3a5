"""One pass over a prepared data set into a new one: what the filters and decontamination share.

    report = rewrite("runs/all", "runs/clean", "dedupe", judge)

The pass can be interrupted: the same call goes on at its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from sapo_vl.data import Dropped, images, store
from sapo_vl.data.report import Report
from sapo_vl.data.shards import Building, fingerprint
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

CHECKPOINT_RECORDS = 2000

Judge = Callable[[Sample], str | None]
"""Returns why a sample is left out, as "cause" or "cause: detail", or None to keep it."""


def rewrite(
    source: str | Path,
    out: str | Path,
    name: str,
    judge: Judge,
    *,
    remembers: bool = False,
    overwrite: bool = False,
    tick: Callable[[Report], None] | None = None,
) -> Report:
    """Copy the samples of `source` that `judge` keeps to `out`, and report the others.

    Args:
        source: a prepared data set; all of its splits are read, test before train.
        out: the folder to write; it appears only when everything is written.
        name: what is done, with its settings: a pass with another name is never continued.
        judge: the rule.
        remembers: the judge needs to see every sample again when the pass is continued.
        overwrite: replace a data set that is in `out`.
        tick: called with the report so far after each record.

    Raises:
        DataError: `source` is no data set, nothing is left, or `out` is occupied.
    """
    key = f"{name} {Path(source).resolve()} {fingerprint(source)}"
    with Building(out, key, overwrite=overwrite) as building:
        saved = building.state
        report = Report.from_dict(saved) if saved else Report(f"{source}: {name}", str(out))
        done, started = report.read, time.monotonic() - report.seconds
        for number, sample in enumerate(every(source)):
            if number < done:
                if remembers:
                    judge(sample)
                continue
            if report.read and report.read % CHECKPOINT_RECORDS == 0:
                building.checkpoint(asdict(report))
            report.read += 1
            reason = judge(sample)
            if reason is None:
                report.keep(sample, images.tokens(sample.images))
                building.add(sample)
            else:
                report.drop(Dropped(sample.id, reason, by_rule=True))
            report.seconds = round(time.monotonic() - started, 3)
            if tick is not None:
                tick(report)
        if not building.ids:
            raise DataError(f"nothing is left of {source}: {report.losses()}")
        counts = building.counts
        report.kept, report.images = counts.rows, counts.images
        report.image_bytes = counts.image_bytes
        building.finish(report.to_json())
    return report


def every(source: str | Path) -> Iterator[Sample]:
    """Yield the samples of all splits, test first: of two copies the held-out one is kept."""
    splits = [split for split in reversed(store.SPLITS) if split in store.splits(source)]
    return chain.from_iterable(store.load(source, split) for split in splits)
