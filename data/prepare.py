"""Turn a source into a data set on disk: read, check, split, store, report.

    report = prepare("mathvision", source="downloads/MATH-V", out="runs/mathvision")
    report = prepare("synthetic", out="runs/synthetic", count=10_000, test_count=480)
    report = prepare("my/source.py:rows", source="my/files", out="runs/mine")
    print(report.table())

A record that cannot be used is dropped with its reason and counted; it never disappears silently.
The report also lies beside the shards as report.json.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from sapo_vl.data import DATASETS, Dropped, images, store, synthetic
from sapo_vl.data.split import side
from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.schema import Sample

EXAMPLES = 3
"""Dropped records that the report names for each reason."""

Record = Sample | Dropped
Rows = Callable[[], Iterable[Record]]


@dataclass(slots=True)
class Drops:
    """The records dropped for one cause."""

    count: int = 0
    examples: list[str] = field(default_factory=list)  # "id" or "id (detail)", the first few


@dataclass(slots=True)
class Report:
    """How a data set came about. Every record read is either kept or under `dropped`."""

    name: str  # the source, as `prepare` was asked for it
    out: str  # folder of the data set
    read: int = 0  # records the source gave
    kept: dict[str, int] = field(default_factory=dict)  # split -> samples
    dropped: dict[str, Drops] = field(default_factory=dict)  # cause -> records
    images: int = 0  # pictures stored, byte for byte as the source has them
    image_bytes: int = 0  # their encoded size
    changed: dict[str, int] = field(default_factory=dict)  # what decoding will do -> pictures

    def table(self) -> str:
        """Return the report as lines for the terminal."""
        lines = [f"{self.name} -> {self.out}", f"  {'read':<10}{self.read:>9,}"]
        lines += [f"  {split:<10}{rows:>9,}" for split, rows in sorted(self.kept.items())]
        lines.append(f"  {'images':<10}{self.images:>9,}  {self.image_bytes / 2**20:.1f} MiB")
        lines += [f"  {'':<10}{n:>9,}  {what}" for what, n in sorted(self.changed.items())]
        lines += [
            f"  {'dropped':<10}{drops.count:>9,}  {cause}: {', '.join(drops.examples)}"
            for cause, drops in sorted(self.dropped.items())
        ]
        return "\n".join(lines)

    def drop(self, record: Dropped) -> None:
        """Count a dropped record under its cause, the part of the reason before a colon."""
        cause, _, detail = record.reason.partition(": ")
        drops = self.dropped.setdefault(cause, Drops())
        drops.count += 1
        if len(drops.examples) < EXAMPLES:
            drops.examples.append(f"{record.id} ({detail})" if detail else record.id)


def prepare(
    name: str,
    *,
    out: str | Path,
    source: str | Path | None = None,
    holdout: float = 0.15,
    limit: int | None = None,
    count: int = 10_000,
    test_count: int = 480,
    seed: int = 0,
    teacher: synthetic.Teacher = "weak",
    overwrite: bool = False,
) -> Report:
    """Prepare one source and return what became of its records.

    A source whose rows name both splits keeps them. Any other is split by its pictures: the share
    `holdout` of all picture files goes to test, and a record with pictures on both sides is
    dropped, so that no picture is ever in both.

    Args:
        name: a key of `DATASETS`, or a function of the user's as `path/to/file.py:function`.
        out: the folder to write; it appears only when everything is written.
        source: where the source's files are (a folder or a hub name); not for synthetic.
        holdout: share of test pictures, at least 0 and below 1; not for synthetic.
        limit: read at most so many records; not for synthetic.
        count: training records to draw; only for synthetic, as the following three.
        test_count: held-out records to draw.
        seed: of the drawing.
        teacher: "weak" or "exact" training solutions.
        overwrite: replace a data set that is in `out`.

    Raises:
        DataError: no such source, nothing left of it, or `out` is occupied.
        ConfigError: an argument is out of range or missing.
    """
    report = Report(name, str(out))
    if name == "synthetic":
        if source is not None or limit is not None:
            raise ConfigError("synthetic draws its records: give count, not source or limit")
        if teacher not in synthetic.TEACHERS:
            raise ConfigError(f"teacher: {teacher!r}; allowed: {', '.join(synthetic.TEACHERS)}")
        drawn = chain(
            synthetic.rows(seed=seed, split="train", count=count, teacher=teacher),
            synthetic.rows(seed=seed, split="test", count=test_count),
        )
        samples = _usable(drawn, report)
    else:
        if not 0 <= holdout < 1:
            raise ConfigError(f"holdout: {holdout}; allowed: at least 0 and below 1")
        function = _source_function(name)
        if name in DATASETS and source is None:
            raise ConfigError(f"source: {name} needs the folder or hub name of its files")
        samples = _split(lambda: map(_checked, islice(function(source), limit)), report, holdout)
    counts = store.write(out, samples, overwrite=overwrite)
    report.kept, report.images, report.image_bytes = counts.rows, counts.images, counts.image_bytes
    text = json.dumps(asdict(report), ensure_ascii=False, indent=1)
    (Path(out) / store.REPORT_NAME).write_text(text + "\n", encoding="utf-8")
    return report


def _split(rows: Rows, report: Report, holdout: float) -> Iterator[Sample]:
    """Usable samples with their final split. The source is read twice: first for its splits."""
    own = {record.split for record in rows() if isinstance(record, Sample)}
    records = rows() if own == set(store.SPLITS) else (_sided(r, holdout) for r in rows())
    yield from _usable(records, report)


def _checked(record: object) -> Record:
    if not isinstance(record, Sample | Dropped):
        raise DataError(
            f"the source gave a {type(record).__name__} instead of a Sample: {record!r}"
        )
    return record


def _sided(record: Record, holdout: float) -> Record:
    if isinstance(record, Dropped):
        return record
    sides = {side(data, holdout) for data in record.images or [record.problem.encode()]}
    if len(sides) > 1:
        return Dropped(record.id, "pictures on both sides of the split")
    return replace(record, split=sides.pop())


def _usable(records: Iterable[Record], report: Report) -> Iterator[Sample]:
    """Pass on what can be stored and decoded; count the rest in the report."""
    seen: set[str] = set()
    for record in records:
        report.read += 1
        if isinstance(record, Sample):
            reason = _fault(record, seen)
            if reason is None:
                seen.add(record.id)
                for what in chain.from_iterable(map(images.changes, record.images)):
                    report.changed[what] = report.changed.get(what, 0) + 1
                yield record
                continue
            record = Dropped(record.id, reason)
        report.drop(record)
    if not seen:
        raise DataError(f"nothing is left of {report.read} records\n{report.table()}")


def _fault(sample: Sample, seen: set[str]) -> str | None:
    if sample.id in seen:
        return "the id comes twice"
    reason = store.fault(sample)
    if reason:
        return reason
    try:
        for data in sample.images:
            images.open_image(data)
    except DataError as error:
        return f"an image cannot be read: {error}"
    return None


def _source_function(name: str) -> Callable[..., Iterable[Record]]:
    if name in DATASETS:
        return importlib.import_module(DATASETS[name]).rows
    file, colon, function = name.rpartition(":")
    if not (colon and file.endswith(".py")):
        raise DataError(
            f"data set {name!r} is unknown{nearest(name, DATASETS)}; known: {', '.join(DATASETS)}; "
            "a source of your own is given as path/to/file.py:function"
        )
    if not Path(file).is_file():
        raise DataError(f"data source {name!r}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"sapo_vl_user_{Path(file).stem}", file)
    assert spec, file
    assert spec.loader, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(vars(module).get(function)):
        raise DataError(f"data source {name!r}: {file} has no function {function!r}")
    return vars(module)[function]
