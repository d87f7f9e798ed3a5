"""Turn a source into a data set on disk: read, check, split, store, report.

    prepare("mathvision", PrepareOptions("runs/mathvision", source="downloads/MATH-V"))
    prepare("synthetic", PrepareOptions("runs/drawn"), SyntheticOptions(count=10_000, seed=1))
    report = prepare("my/source.py:rows", PrepareOptions("runs/mine", source="my/files"))
    print(report.table())

An invalid record stops the preparation with an error that names it; with `on_error="skip"` it is
dropped and counted. Records dropped by a rule are counted in either case. The report is saved
beside the shards as report.json. An interrupted preparation resumes when it is started again with
the same arguments and unchanged source files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from sapo_vl.data import DATASETS, READING_NOTES, Dropped, images
from sapo_vl.data.readers.columns import parse_map
from sapo_vl.data.readers.escapes import MENDED, mend, mend_gold
from sapo_vl.data.readers.golds import TAKEN_OUT, worked_answer
from sapo_vl.data.readers.image_refs import outside_allowed
from sapo_vl.data.readers.text import gold_type
from sapo_vl.data.records import fault, image_name
from sapo_vl.data.report import Report
from sapo_vl.data.shards import DatasetWriter, fingerprint
from sapo_vl.data.source_loader import Record, source_function
from sapo_vl.data.split import split_of
from sapo_vl.data.synthetic import SyntheticOptions, all_rows
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.schema import Sample

CHECKPOINT_RECORDS = 2000
"""Records between checkpoints; an interruption repeats at most this many, some seconds of work."""

HOLDOUT = 0.15
"""Default share of test images."""

FREE_TYPES = ("number", "expression", "equation", "tuple", "interval", "set", "text")
"""Answer types that are read from the gold's notation."""

Check = Callable[[Sample], str | None]
"""Returns why a sample's gold answer cannot be graded, or None; data/ knows no verifiers. Its repr
is part of the key under which an interrupted preparation resumes."""


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What to read and how to store it."""

    out: str | Path  # folder to write; it appears only when it is complete
    source: str | Path | None = None  # folder, file or hub name; not for synthetic
    columns: str = ""  # FIELD=COLUMN,..; for generic only
    holdout: float | None = None  # share of test images, 0 to 1 (HOLDOUT); not for synthetic
    split: str | None = None  # keep this split only, by the source's name for it or train, test
    limit: int | None = None  # read at most this many records; not for synthetic
    max_pixels: int | None = None  # scale larger images down to this budget
    image_factor: int = images.QWEN3_VL_FACTOR  # side of a visual token in the renderer, in pixels
    on_error: Literal["stop", "skip"] = "stop"  # at an invalid record
    allow_outside: bool = False  # read images by paths that lead out of the source's folder
    overwrite: bool = False  # replace a data set in `out`


def prepare(
    name: str,
    options: PrepareOptions,
    synthetic: SyntheticOptions | None = None,
    *,
    check: Check | None = None,
    tick: Callable[[Report], None] | None = None,
) -> Report:
    """Prepare one source and return the report.

    A source with test records keeps its splits. Any other is split by its images: a share
    `holdout` of all image files goes to test, and a record with images in both splits is dropped.

    Args:
        name: a key of `DATASETS`, or a user's function as `path/to/file.py:function`.
        options: what to read and how to store it.
        synthetic: what to draw; for the synthetic source only.
        check: refuses gold answers that no verifier can read; such records are counted.
        tick: called with the report so far after each record.

    Raises:
        DataError: a record is invalid, none is left, or `out` is not empty.
        ConfigError: the source is unknown, or an option is out of range, missing or does not apply.
    """
    read = _reader(name, options, synthetic)
    key = _resume_key(name, options, synthetic, check)
    with ExitStack() as stack:
        if options.allow_outside:
            stack.enter_context(outside_allowed())
        writer = stack.enter_context(DatasetWriter(options.out, key, overwrite=options.overwrite))
        saved = writer.state
        report = Report.from_dict(saved) if saved else Report(name, str(options.out))
        started = time.monotonic() - report.seconds
        ids = set(writer.ids)
        for record in islice(read(), report.read, None):
            if report.read and report.read % CHECKPOINT_RECORDS == 0:
                writer.checkpoint(asdict(report))
            report.read += 1
            outcome = _accept(record, options, report, ids, check)
            if isinstance(outcome, Sample):
                ids.add(outcome.id)
                writer.add(outcome)
            elif options.on_error == "stop" and not outcome.by_rule:
                raise DataError(_complaint(record, outcome, name, options.source))
            else:
                report.drop(outcome)
            report.seconds = round(time.monotonic() - started, 3)
            if tick is not None:
                tick(report)
        if options.split and not report.read:
            raise DataError(f"split: {options.source or name} has no record of {options.split!r}")
        if not ids:
            raise DataError(f"no record of {options.source or name} is left: {report.losses()}")
        report.count_written(writer.counts)
        writer.finish(report.to_json())
    return report


def _resume_key(
    name: str, options: PrepareOptions, synthetic: SyntheticOptions | None, check: Check | None
) -> str:
    """Return a text that is the same for two preparations if one may resume the other."""
    settings = asdict(replace(options, out="", on_error="stop", overwrite=False))
    settings["source"] = str(options.source)
    files = [fingerprint(options.source), fingerprint(name.rpartition(":")[0])]
    return json.dumps([name, settings, synthetic and asdict(synthetic), repr(check), files])


def _reader(
    name: str, options: PrepareOptions, synthetic: SyntheticOptions | None
) -> Callable[[], Iterable[Record]]:
    """Check the options and return what yields the source's records with their final split."""
    holdout = HOLDOUT if options.holdout is None else options.holdout
    if not 0 <= holdout <= 1:
        raise ConfigError(f"holdout: {holdout}; allowed: 0 to 1")
    if options.image_factor < 1:
        raise ConfigError(f"image_factor: {options.image_factor}; allowed: 1 or more")
    if options.max_pixels is not None and options.max_pixels < options.image_factor**2:
        side = options.image_factor
        raise ConfigError(
            f"max_pixels: {options.max_pixels} is less than one visual token of {side}x{side}"
        )
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit: {options.limit}; allowed: 1 or more")
    refuse_inapplicable(name, given_options(options, synthetic))
    if name == "synthetic":
        return partial(all_rows, synthetic or SyntheticOptions())
    function = source_function(name)
    if name == "generic":
        function = partial(function, columns=parse_map(options.columns))
    if name in DATASETS and options.source is None:
        raise ConfigError(f"source: {name} needs the folder or hub name of its files")

    def rows() -> Iterable[Record]:
        records = map(_require_record, function(options.source))
        return islice(filter(partial(_is_of_split, options.split), records), options.limit)

    def records() -> Iterator[Record]:
        has_test = any(isinstance(r, Sample) and r.split == "test" for r in rows())
        yield from rows() if has_test else (_assign_split(r, holdout) for r in rows())

    return records


_NOT_DRAWN = ("source", "columns", "holdout", "split", "limit", "allow_outside")
"""Options of sources that are read, not drawn."""


def given_options(options: PrepareOptions, synthetic: SyntheticOptions | None) -> list[str]:
    """Return the names of options that differ from their defaults.

    All of `SyntheticOptions` when it is given but does not differ.
    """
    given = [
        field.name
        for field in fields(options)
        if field.name != "out" and getattr(options, field.name) != field.default
    ]
    if synthetic is None:
        return given
    names = [field.name for field in fields(synthetic)]
    changed = [n for n in names if getattr(synthetic, n) != getattr(SyntheticOptions(), n)]
    return given + (changed or names)


def refuse_inapplicable(name: str, given: Iterable[str]) -> None:
    """Raise ConfigError for the first option in `given` that the source does not take."""
    drawing = [field.name for field in fields(SyntheticOptions)]
    for option in given:
        key = "map" if option == "columns" else option
        if name == "synthetic" and option in _NOT_DRAWN:
            raise ConfigError(
                f"{key}: synthetic draws its records and does not take it; it takes "
                f"{', '.join(drawing)}"
            )
        if name != "synthetic" and option in drawing:
            raise ConfigError(f"{key}: only synthetic takes it, not {name}")
        if name != "generic" and option == "columns":
            raise ConfigError(f"{key}: only generic takes it; the columns of {name} are fixed")


def _is_of_split(split: str | None, record: Record) -> bool:
    if split is None or isinstance(record, Dropped):
        return True
    return split == (record.metadata.get("split") or record.split)


def _require_record(record: object) -> Record:
    if not isinstance(record, Sample | Dropped):
        raise DataError(
            f"the source yielded a {type(record).__name__} instead of a Sample: {record!r}"
        )
    return record


def _assign_split(record: Record, holdout: float) -> Record:
    """Set a record's split by its images, or by its text when it has none."""
    if isinstance(record, Dropped):
        return record
    contents = record.images or [record.problem.encode(errors="surrogatepass")]
    splits = {split_of(content, holdout) for content in contents}
    if len(splits) > 1:
        return Dropped(record.id, "images in both splits", by_rule=True)
    return replace(record, split=splits.pop())


def _accept(
    record: Record, options: PrepareOptions, report: Report, ids: set[str], check: Check | None
) -> Record:
    """Return the sample to store, counted in the report, or why the record is dropped."""
    if isinstance(record, Dropped):
        return record
    try:
        record = _mended(record)
        reason = fault(record)
        if record.id in ids:
            way = ": name others with --map id=COLUMN, or several as id=A+B"
            reason = "the id is repeated" + (way if report.name == "generic" else "")
        if reason:
            return Dropped(record.id, reason)
        try:
            record = _reduced(record)
        except DataError as error:
            return Dropped(record.id, str(error), by_rule=True)
        sample = replace(record, images=_fit_images(record, options, report))
        refusal = check(sample) if check else None
        if refusal is not None:
            return Dropped(record.id, f"no verifier reads the gold: {refusal}", by_rule=True)
        budget = options.max_pixels or images.MAX_DECODED_PIXELS
        report.keep(sample, budget, options.image_factor)
    except DataError as error:
        return Dropped(record.id, str(error))
    return sample


def _mended(sample: Sample) -> Sample:
    """Return a sample with the backslashes back that escapes had taken, which is noted."""
    problem, answer = mend(sample.problem), mend_gold(sample.answer)
    choices = tuple(map(mend, sample.choices))
    if (problem, answer, choices) == (sample.problem, sample.answer, sample.choices):
        return sample
    noted = sample.metadata.get(READING_NOTES, [])
    kind = sample.answer_type
    if answer != sample.answer and kind in FREE_TYPES:
        kind = gold_type(answer, sample.unit)
    return replace(
        sample,
        problem=problem,
        answer=answer,
        answer_type=kind,
        choices=choices,
        metadata=sample.metadata | {READING_NOTES: [*noted, MENDED]},
    )


def _reduced(record: Sample) -> Sample:
    """Return a sample with the marked answer in place of a gold that is a worked solution.

    Raises:
        DataError: the answer is not marked.
    """
    if record.answer_type not in FREE_TYPES:
        return record
    answer = worked_answer(record.answer)
    if answer is None or answer == record.answer:
        return record
    noted = record.metadata.get(READING_NOTES, [])
    return replace(
        record,
        answer=answer,
        answer_type=gold_type(answer, record.unit),
        metadata=record.metadata | {READING_NOTES: [*noted, TAKEN_OUT]},
    )


def _fit_images(sample: Sample, options: PrepareOptions, report: Report) -> tuple[bytes, ...]:
    """Return the images within `max_pixels`; each is decoded once. Raises DataError naming one."""
    budget, factor = options.max_pixels, options.image_factor
    fitted = []
    for number, data in enumerate(sample.images, start=1):
        try:
            decoded = images.open_image(data)
            image = images.fit_to_budget(data, budget, factor, decoded) if budget else data
            images.count_tokens([image], factor=factor)
        except DataError as error:
            file = image_name(sample, number)
            raise DataError(f"an image cannot be read: {file}: {error}") from error
        if image is not data:
            report.change(f"over {budget} pixels, scaled down")
        if images.is_one_colour(decoded):
            report.change("one colour only, so that nothing is to be seen")
        fitted.append(image)
    return tuple(fitted)


def _complaint(record: Record, dropped: Dropped, name: str, source: object) -> str:
    """Name the invalid record with its file, and the options the user has."""
    place = record.metadata.get("record") if isinstance(record, Sample) else None
    where = f" ({place})" if place else ""
    if source is not None and str(source) not in dropped.reason:
        where += f" of {source}"
    return (
        f"{name} record {dropped.id!r}{where}: {dropped.reason}; fix it, or drop and count such "
        "records with --on-error skip"
    )
