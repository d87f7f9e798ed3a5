"""Turn a source into a data set on disk: read, check, split, store, report.

    report = prepare("mathvision", source="downloads/MATH-V", out="runs/mathvision")
    report = prepare("synthetic", out="runs/synthetic", count=10_000, test_count=480)
    report = prepare("my/source.py:rows", source="my/files", out="runs/mine")
    print(report.table())

A record with a fault stops the preparation with an error that names it, or is dropped and counted
under `on_error="skip"`; a record left out by a rule is counted in either case. The report also lies
beside the shards as report.json. An interrupted preparation goes on where it was when it is started
again with the same arguments and the source's files are the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal, cast

from sapo_vl.data import DATASETS, Dropped, images, synthetic
from sapo_vl.data.readers import generic
from sapo_vl.data.records import fault, picture_name
from sapo_vl.data.report import Report
from sapo_vl.data.shards import Building, fingerprint
from sapo_vl.data.split import side
from sapo_vl.errors import ConfigError, DataError, UserError, nearest
from sapo_vl.schema import Sample

CHECKPOINT_RECORDS = 2000
"""Records read between two checkpoints: some seconds of work that an interruption may cost."""

Record = Sample | Dropped
Rows = Callable[[], Iterable[Record]]
Check = Callable[[Sample], str | None]
"""Returns why a sample's gold answer cannot be graded, or None; data/ knows no verifiers. An
interrupted preparation goes on only under a check of the same repr."""


def prepare(
    name: str,
    *,
    out: str | Path,
    source: str | Path | None = None,
    columns: str = "",
    holdout: float = 0.15,
    split: str | None = None,
    limit: int | None = None,
    max_pixels: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    check: Check | None = None,
    tick: Callable[[Report], None] | None = None,
    count: int = 10_000,
    test_count: int = 480,
    seed: int = 0,
    teacher: synthetic.Teacher = "weak",
    level: int = 1,
    overwrite: bool = False,
) -> Report:
    """Prepare one source and return what became of its records.

    A source that has held-out records keeps its splits. Any other is split by its pictures: the
    share `holdout` of all picture files goes to test, and a record with pictures on both sides is
    dropped, so that no picture is ever in both.

    Args:
        name: a key of `DATASETS`, or a function of the user's as `path/to/file.py:function`.
        out: the folder to write; it appears only when everything is written.
        source: where the source's files are (a folder or a hub name); not for synthetic.
        columns: FIELD=COLUMN,.. for generic.
        holdout: share of test pictures, 0 to 1; not for synthetic.
        split: keep only the records of this split, by the source's own name of it or train, test.
        limit: read at most so many records; not for synthetic.
        max_pixels: store a larger picture scaled into this budget.
        on_error: "stop" at the first record with a fault, or "skip" and count it.
        check: refuses gold answers that no verifier can read; such records are counted.
        tick: called with the report so far after each record.
        count: training records to draw; only for synthetic, as the following four.
        test_count: held-out records to draw.
        seed: of the drawing.
        teacher: "weak" or "exact" training solutions.
        level: 1 to 3, how much there is to read in a picture.
        overwrite: replace a data set that is in `out`.

    Raises:
        DataError: a record has a fault, no such source, nothing left of it, or `out` is occupied.
        ConfigError: an argument is out of range or missing.
    """
    if max_pixels is not None and max_pixels < images.FACTOR**2:
        raise ConfigError(f"max_pixels: {max_pixels} is less than one visual token's 32x32")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: {limit}; it is at least 1")
    if min(count, test_count) < 0:
        raise ConfigError(f"count: {min(count, test_count)} is negative")
    arguments = [name, str(source), columns, holdout, split, limit, max_pixels, repr(check)]
    arguments += [count, test_count, seed, teacher, level]
    arguments += [fingerprint(source), fingerprint(name.rpartition(":")[0])]
    if name == "synthetic":
        records = _drawn(source, limit, (count, test_count), seed, teacher, level)
    else:
        records = _read(name, source, columns, holdout, split, limit)
    with Building(out, json.dumps(arguments), overwrite=overwrite) as building:
        saved = building.state
        report = Report.from_dict(saved) if saved else Report(name, str(out))
        started = time.monotonic() - report.seconds
        seen = set(building.ids)
        for record in islice(records(), report.read, None):
            if report.read and report.read % CHECKPOINT_RECORDS == 0:
                building.checkpoint(asdict(report))
            sample = _kept(record, report, seen, max_pixels, check)
            if isinstance(sample, Dropped):
                if on_error == "stop" and not sample.by_rule:
                    raise DataError(_complaint(record, sample, name, source))
                report.drop(sample)
            else:
                building.add(sample)
            report.seconds = round(time.monotonic() - started, 3)
            if tick is not None:
                tick(report)
        if split and not report.read:
            raise DataError(f"split: {source or name} has no record of {split!r}")
        if not seen:
            raise DataError(f"nothing is left of {source or name}: {report.losses()}")
        counts = building.counts
        report.kept, report.images = counts.rows, counts.images
        report.image_bytes = counts.image_bytes
        building.finish(report.to_json())
    return report


def _drawn(
    source: object, limit: object, counts: tuple[int, int], seed: int, teacher: str, level: int
) -> Rows:
    if source is not None or limit is not None:
        raise ConfigError("synthetic draws its records: give count, not source or limit")
    if teacher not in synthetic.TEACHERS:
        raise ConfigError(f"teacher: {teacher!r}; allowed: {', '.join(synthetic.TEACHERS)}")
    if level not in synthetic.LEVELS:
        raise ConfigError(f"level: {level}; allowed: {', '.join(map(str, synthetic.LEVELS))}")
    draw = partial(synthetic.rows, seed=seed, level=level, teacher=cast(synthetic.Teacher, teacher))
    return lambda: chain(
        *(draw(split=s, count=n) for s, n in zip(("train", "test"), counts, strict=True))
    )


def _read(
    name: str,
    source: str | Path | None,
    columns: str,
    holdout: float,
    split: str | None,
    limit: int | None,
) -> Rows:
    """Return the records of a source with their final split."""
    if not 0 <= holdout <= 1:
        raise ConfigError(f"holdout: {holdout}; allowed: 0 to 1")
    function = source_function(name)
    if name == "generic":
        function = partial(function, columns=generic.parse_map(columns))
    elif columns:
        raise ConfigError(f"map: {name} knows its columns; only generic takes a map")
    if name in DATASETS and source is None:
        raise ConfigError(f"source: {name} needs the folder or hub name of its files")

    def rows() -> Iterable[Record]:
        return islice(filter(partial(_of_split, split), map(_checked, function(source))), limit)

    def records() -> Iterator[Record]:
        held_out = any(isinstance(r, Sample) and r.split == "test" for r in rows())
        yield from rows() if held_out else (_sided(r, holdout) for r in rows())

    return records


def _of_split(split: str | None, record: Record) -> bool:
    if split is None or isinstance(record, Dropped):
        return True
    return split == (record.metadata.get("split") or record.split)


def _checked(record: object) -> Record:
    if not isinstance(record, Sample | Dropped):
        raise DataError(
            f"the source gave a {type(record).__name__} instead of a Sample: {record!r}"
        )
    return record


def _sided(record: Record, holdout: float) -> Record:
    if isinstance(record, Dropped):
        return record
    sides = {
        side(data, holdout)
        for data in record.images or [record.problem.encode(errors="surrogatepass")]
    }
    if len(sides) > 1:
        return Dropped(record.id, "pictures on both sides of the split", by_rule=True)
    return replace(record, split=sides.pop())


def _kept(
    record: Record, report: Report, seen: set[str], max_pixels: int | None, check: Check | None
) -> Record:
    """Count a record as read, and return the sample to store or why there is none."""
    report.read += 1
    if isinstance(record, Dropped):
        return record
    try:
        sample = _usable(record, report, seen, max_pixels)
        refusal = check(sample) if check else None
        if refusal is not None:
            return Dropped(record.id, f"no verifier reads the gold: {refusal}", by_rule=True)
        seen.add(sample.id)
        report.keep(sample, images.tokens(sample.images, max_pixels or images.MAX_DECODED_PIXELS))
        return sample
    except DataError as error:
        return Dropped(record.id, str(error))


def _complaint(record: Record, dropped: Dropped, name: str, source: object) -> str:
    """Say which record of which file is at fault, and what to do."""
    found = record.metadata.get("record") if isinstance(record, Sample) else None
    where = f" ({found})" if found else ""
    if source is not None and str(source) not in dropped.reason:
        where += f" of {source}"
    return (
        f"{name} record {dropped.id!r}{where}: {dropped.reason}; mend it, or leave such records "
        "out and count them with --on-error skip"
    )


def _usable(sample: Sample, report: Report, seen: set[str], max_pixels: int | None) -> Sample:
    """Return the sample with its pictures in the budget. Raises DataError for a fault of it."""
    reason = "the id comes twice" if sample.id in seen else fault(sample)
    if reason:
        raise DataError(reason)
    stored = []
    for number, data in enumerate(sample.images, start=1):
        try:
            kept = images.within(data, max_pixels) if max_pixels else data
            if kept is data:
                images.open_image(data)
            images.tokens([kept])
        except DataError as error:
            file = picture_name(sample, number)
            raise DataError(f"an image cannot be read: {file}: {error}") from error
        if kept is not data:
            report.change(f"over {max_pixels} pixels, scaled down")
        stored.append(kept)
    return replace(sample, images=tuple(stored))


def source_function(name: str) -> Callable[..., Iterable[Record]]:
    """Return the `rows` of a name in `DATASETS`, or the function of `file.py:function`."""
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
    sys.modules[spec.name] = module  # dataclasses of the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise DataError(f"data source {name!r}: {file} cannot be loaded: {error!r}") from error
    if not callable(vars(module).get(function)):
        raise DataError(f"data source {name!r}: {file} has no function {function!r}")
    return partial(_users, name, vars(module)[function])


def _users(
    name: str, function: Callable[..., Iterable[Record]], source: object
) -> Iterable[Record]:
    """Yield the records of a user's function; what it raises is named with its place."""
    number = 0
    try:
        for record in function(source):
            yield record
            number += 1
    except UserError:
        raise
    except Exception as error:  # whatever the user's function raises
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"data source {name!r}: record {number}: {error!r} in {place.filename}, line "
            f"{place.lineno}"
        ) from error
