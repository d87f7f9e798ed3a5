"""Samples on disk: parquet shards with embedded images, written atomically, read lazily.

A data set is a folder of `train-00000.parquet`, `test-00000.parquet`, ...; the shards carry Hugging
Face feature metadata, so that `datasets.load_dataset("parquet", data_dir=FOLDER)` decodes the
images. This module uses pyarrow because importing `datasets` takes over a second.

    counts = store.write("runs/data", samples)
    train = store.load("runs/data", "train")
    train[0].problem, len(train), train.ids[:3]
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from sapo_vl.data.records import COLUMNS, SPLITS, from_row
from sapo_vl.data.shards import REPORT_NAME, SHARD, Counts, DatasetWriter
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError, IndexError)
"""Raised by pyarrow for damaged files, also for text that is not UTF-8."""

CACHED_GROUPS = 16
"""Row groups cached: sequential reads hit the cache, shuffled reads do not profit from it."""


def write(
    directory: str | Path,
    samples: Iterable[Sample],
    shard_rows: int = 1000,
    *,
    overwrite: bool = False,
) -> Counts:
    """Write samples into `directory`, one series of shards per `Sample.split`.

    Holds one row group in memory. `directory` appears, or is replaced, only after all samples are
    written.

    Raises:
        DataError: `directory` is not empty, a sample is invalid, an id is repeated, or there are
            no samples.
    """
    with DatasetWriter(directory, key="", shard_rows=shard_rows, overwrite=overwrite) as writer:
        for sample in samples:
            writer.add(sample)
        return writer.finish()


def load(path: str | Path, split: str) -> Samples:
    """Open one split of a data set for random access.

    Raises:
        DataError: the folder, its shards, the split or a column does not exist.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"data.path: {folder} does not exist; run: sapo-vl prepare NAME --out {folder}"
        )
    shards = _shards(folder)
    if not shards:
        raise DataError(
            f"data.path: {folder} holds no train-*.parquet or test-*.parquet; "
            f"run: sapo-vl prepare NAME --out {folder}"
        )
    if split not in shards:
        raise DataError(f"data.path: {folder} has no split {split!r}, only {', '.join(shards)}")
    samples = Samples(shards[split])
    expected = _reported(folder).get(split, len(samples))
    if len(samples) != expected:
        raise DataError(
            f"{folder}: {len(samples)} of the {expected} records of {split} that {REPORT_NAME} "
            "counts are there; a shard is missing or was exchanged: copy the set again"
        )
    return samples


def splits(path: str | Path) -> list[str]:
    """Return the names of a data set's splits.

    Raises:
        DataError: there are none, or one that the report counts is missing.
    """
    folder = Path(path)
    names = list(_shards(folder)) if folder.is_dir() else []
    if not names:
        raise DataError(
            f"{folder} is not a prepared data set: no train-*.parquet or test-*.parquet"
        )
    missing = [split for split, count in _reported(folder).items() if count and split not in names]
    if missing:
        raise DataError(
            f"{folder}: no shard of {missing[0]} is there, which {REPORT_NAME} counts: copy the "
            "set again"
        )
    return names


def iter_samples(path: str | Path) -> Iterator[Sample]:
    """Yield the samples of all splits, test before train, so that the first duplicate is held out.

    Raises:
        DataError: as `splits` and `load`.
    """
    names = [split for split in reversed(SPLITS) if split in splits(path)]
    return chain.from_iterable(load(path, split) for split in names)


def count_samples(path: str | Path) -> int:
    """Return the number of samples in all splits. Raises DataError as `iter_samples`."""
    return sum(len(load(path, split)) for split in splits(path))


class Samples(Sequence[Sample]):
    """The samples of one split, read on access from memory-mapped shards."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the shards' footers and ids, but no images.

        Raises:
            DataError: a file is not parquet or lacks a column.
        """
        self._groups: list[tuple[pq.ParquetFile, int]] = []
        self._starts: list[int] = []
        self._files: list[Path] = []  # of each row group
        self.ids: list[str] = []  # in row order
        for file in files:
            self._add_shard(file)
        self._cache: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return one sample, or a list for a slice; negative indices count from the end."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._starts, position) - 1
        try:
            return from_row(self._group(number)[position - self._starts[number]])
        except DataError as error:
            raise DataError(f"{self._files[number]}: {error}") from error

    def column(self, name: str) -> list[Any]:
        """Return one column of all samples in order, without reading the images."""
        shards = dict(zip((shard for shard, _ in self._groups), self._files, strict=True))
        return [value for shard, file in shards.items() for value in _column(shard, name, file)]

    def _add_shard(self, file: Path) -> None:
        try:
            shard = pq.ParquetFile(file, memory_map=True)
        except _DAMAGE as error:
            raise DataError(f"{file}: not a readable parquet file: {error}") from error
        missing = [name for name in COLUMNS if name not in shard.schema_arrow.names]
        if missing:
            raise DataError(f"{file}: columns missing: {', '.join(missing)}; prepare the set anew")
        start = len(self.ids)
        for number in range(shard.num_row_groups):
            self._groups.append((shard, number))
            self._files.append(file)
            self._starts.append(start)
            start += shard.metadata.row_group(number).num_rows
        self.ids += _column(shard, "id", file)

    def _group(self, number: int) -> list[dict[str, Any]]:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            shard, local = self._groups[number]
            try:
                table = shard.read_row_group(local, list(COLUMNS), use_threads=False)
                rows = table.to_pylist()
            except _DAMAGE as error:
                first = self.ids[self._starts[number]]
                raise DataError(f"damaged shard, from record {first!r} on: {error}") from error
            self._cache[number] = rows
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
            return rows


def _column(shard: pq.ParquetFile, name: str, file: Path) -> list[Any]:
    try:
        return shard.read(columns=[name], use_threads=False)[name].to_pylist()
    except _DAMAGE as error:
        raise DataError(f"{file}: damaged shard, in the column {name!r}: {error}") from error


def _reported(folder: Path) -> dict[str, int]:
    """Return the number of samples of each split that the set's report counts, if it has one."""
    file = folder / REPORT_NAME
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))["kept"] if file.is_file() else {}
        return {str(split): int(count) for split, count in kept.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file}: not the report of a prepared set: {error!r}; remove it"
        ) from error


def _shards(folder: Path) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        match = SHARD.fullmatch(file.name)
        if match:
            shards.setdefault(match["split"], []).append(file)
    for split, files in shards.items():
        for number, file in enumerate(files):
            if file.name != f"{split}-{number:05d}.parquet":
                raise DataError(
                    f"{folder}: {split}-{number:05d}.parquet is missing: copy the set again"
                )
    return shards
