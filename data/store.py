"""Samples on disk: parquet shards with embedded images, written atomically, read lazily.

A data set is a folder of `train-00000.parquet`, `test-00000.parquet`, ...; the shards carry Hugging
Face feature metadata, so that `datasets.load_dataset("parquet", data_dir=FOLDER)` decodes the
images. This module uses pyarrow because importing `datasets` takes over a second.

    counts = store.write("runs/data", samples)
    train = store.load("runs/data", "train")
    train[0].problem, len(train), train.ids[:3]
"""

from __future__ import annotations

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
from sapo_vl.data.shards import SHARD, Counts, DatasetWriter
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

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
    return Samples(shards[split])


def splits(path: str | Path) -> list[str]:
    """Return the names of a data set's splits. Raises DataError when there are none."""
    folder = Path(path)
    names = list(_shards(folder)) if folder.is_dir() else []
    if not names:
        raise DataError(
            f"{folder} is not a prepared data set: no train-*.parquet or test-*.parquet"
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
        return from_row(self._group(number)[position - self._starts[number]])

    def column(self, name: str) -> list[Any]:
        """Return one column of all samples in order, without reading the images."""
        files = dict.fromkeys(shard for shard, _ in self._groups)
        tables = (file.read(columns=[name], use_threads=False) for file in files)
        return [value for table in tables for value in table[name].to_pylist()]

    def _add_shard(self, file: Path) -> None:
        try:
            shard = pq.ParquetFile(file, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: not a readable parquet file: {error}") from error
        missing = [name for name in COLUMNS if name not in shard.schema_arrow.names]
        if missing:
            raise DataError(f"{file}: columns missing: {', '.join(missing)}")
        start = len(self.ids)
        for number in range(shard.num_row_groups):
            self._groups.append((shard, number))
            self._starts.append(start)
            start += shard.metadata.row_group(number).num_rows
        self.ids += shard.read(columns=["id"], use_threads=False)["id"].to_pylist()

    def _group(self, number: int) -> list[dict[str, Any]]:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            shard, local = self._groups[number]
            try:
                table = shard.read_row_group(local, list(COLUMNS), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                first = self.ids[self._starts[number]]
                raise DataError(f"damaged shard, from record {first!r} on: {error}") from error
            rows = table.to_pylist()
            self._cache[number] = rows
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
            return rows


def _shards(folder: Path) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        match = SHARD.fullmatch(file.name)
        if match:
            shards.setdefault(match["split"], []).append(file)
    return shards
