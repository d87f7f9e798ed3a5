"""Copy a prepared data set through a record filter; used by the filters and decontamination.

    report = rewrite("runs/all", "runs/clean", record_filter, RewriteOptions("dedupe"))

An interrupted pass resumes from its last checkpoint when it is started again with the same
arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.report import Report
from sapo_vl.data.shards import DatasetWriter, fingerprint
from sapo_vl.data.store import iter_samples
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

CHECKPOINT_RECORDS = 2000

RecordFilter = Callable[[Sample], str | None]
"""Returns why a sample is dropped, as "cause" or "cause: detail", or None to keep it."""


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    """How `rewrite` runs."""

    name: str  # the filter with its settings; a pass with another name is not resumed
    stateful: bool = False  # the filter remembers samples: on resume it sees all of them again
    overwrite: bool = False  # replace a data set in `out`


def rewrite(
    source: str | Path,
    out: str | Path,
    record_filter: RecordFilter,
    options: RewriteOptions,
    *,
    tick: Callable[[Report], None] | None = None,
) -> Report:
    """Copy the samples of `source` that pass `record_filter` to `out`; report the dropped ones.

    Args:
        source: a prepared data set; all splits are read, test before train.
        out: the folder to write; it appears only when it is complete.
        record_filter: called once per sample, in order.
        options: name, statefulness and overwriting.
        tick: called with the report so far after each record.

    Raises:
        DataError: `source` is not a data set, no sample is left, or `out` is not empty.
    """
    key = f"{options.name} {Path(source).resolve()} {fingerprint(source)}"
    with DatasetWriter(out, key, overwrite=options.overwrite) as writer:
        saved = writer.state
        report = Report.from_dict(saved) if saved else Report(f"{source}: {options.name}", str(out))
        done, started = report.read, time.monotonic() - report.seconds
        for number, sample in enumerate(iter_samples(source)):
            if number < done:
                if options.stateful:
                    record_filter(sample)
                continue
            if report.read and report.read % CHECKPOINT_RECORDS == 0:
                writer.checkpoint(asdict(report))
            report.read += 1
            reason = record_filter(sample)
            if reason is None:
                report.keep(sample)
                writer.add(sample)
            else:
                report.drop(Dropped(sample.id, reason, by_rule=True))
            report.seconds = round(time.monotonic() - started, 3)
            if tick is not None:
                tick(report)
        if not writer.ids:
            raise DataError(f"no record of {source} is left: {report.losses()}")
        report.count_written(writer.counts)
        writer.finish(report.to_json())
    return report
