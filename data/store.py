"""Samples on disk: parquet with embedded pictures, written atomically, read lazily.

A data set is a folder of `train-00000.parquet`, `test-00000.parquet`, ...; the files carry Hugging
Face feature metadata, so `datasets.load_dataset("parquet", data_dir=FOLDER)` shows the pictures.
Plain pyarrow is used because importing `datasets` takes over a second.

    counts = store.write("runs/data", samples)
    train = store.load("runs/data", "train")
    train[0].problem, len(train), train.ids[:3]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from sapo_vl.data.images import header_size
from sapo_vl.errors import DataError
from sapo_vl.schema import ANSWER_TYPES, IMAGE_MARK, Sample

REPORT_NAME = "report.json"
"""Lies beside the shards; says how the data set came about (see prepare.py)."""

ROW_GROUP_ROWS = 16
"""One random read costs one row group: few rows, so that 16 big pictures are the most it reads."""

CACHED_GROUPS = 16
"""Row groups kept in memory: a sequential reader hits them, a shuffled one does not need them."""

SPLITS = ("train", "test")
"""What `Sample.split` may be."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "dataset": pa.string(),
    "task": pa.string(),
    "problem": pa.string(),
    "images": pa.list_(_IMAGE),
    "answer": pa.string(),
    "answer_type": pa.string(),
    "choices": pa.list_(pa.string()),
    "precision": pa.int32(),
    "unit": pa.string(),
    "split": pa.string(),
    "solution": pa.string(),
    "metadata": pa.string(),
}
_SHARD = re.compile(r"(?P<split>\w+)-\d{5}\.parquet")


@dataclass(slots=True)
class Counts:
    """What `write` put on disk."""

    rows: dict[str, int] = field(default_factory=dict)  # split -> samples
    images: int = 0  # pictures in all splits
    image_bytes: int = 0  # their encoded size
    files: int = 0  # parquet shards


def fault(sample: Sample) -> str | None:
    """Return what is wrong with a sample as "cause" or "cause: detail", or None.

    The cause is the same text for every record with the same fault, so that causes can be counted.
    """
    marks = sample.problem.count(IMAGE_MARK)
    letters = [chr(ord("A") + i) for i in range(len(sample.choices))]
    if not sample.id:
        return "the id is empty"
    if sample.split not in SPLITS:
        return f"the split is unknown: {sample.split!r}; allowed: {', '.join(SPLITS)}"
    if marks != len(sample.images):
        return f"marks and images differ: {marks} {IMAGE_MARK} for {len(sample.images)} images"
    if not sample.problem.replace(IMAGE_MARK, "").strip():
        return "the problem has no text"
    if not sample.answer.strip():
        return "the gold answer is empty"
    if sample.answer_type not in ANSWER_TYPES:
        allowed = ", ".join(ANSWER_TYPES)
        return f"the answer_type is unknown: {sample.answer_type!r}; allowed: {allowed}"
    if sample.answer_type == "choice" and letters and sample.answer not in letters:
        return f"the gold answer is no letter of a choice: {sample.answer!r}; {', '.join(letters)}"
    return _unstorable(sample) or _bad_image(sample)


def validate(sample: Sample) -> None:
    """Check what every later stage relies on; images are checked by their header only.

    Raises:
        DataError: names the record's id and what is wrong with it.
    """
    wrong = fault(sample)
    if wrong:
        raise DataError(f"{sample.dataset} record {sample.id!r}: {wrong}")


def write(
    directory: str | Path,
    samples: Iterable[Sample],
    shard_rows: int = 1000,
    *,
    overwrite: bool = False,
) -> Counts:
    """Write samples into `directory`, one series of shards for each `Sample.split`.

    Memory stays flat: a row group at a time. Nothing is seen under `directory` before everything
    is written, and an old data set is replaced only then.

    Raises:
        DataError: `directory` holds something already, a sample is not valid, an id comes twice,
            or there are no samples.
    """
    target = Path(directory)
    _refuse_occupied(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        counts = _write_shards(temporary, samples, shard_rows)
        temporary.chmod(0o777 & ~_umask())
        _replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def load(path: str | Path, split: str) -> Samples:
    """Open one split of a data set for random access.

    Raises:
        DataError: the folder, its shards, the split or a column is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"data.path: {folder} does not exist; run: sapo-vl prepare NAME --out {folder}"
        )
    shards = _shards(folder)
    if not shards:
        raise DataError(
            f"data.path: {folder} holds no train-*.parquet or test-*.parquet files; "
            f"run: sapo-vl prepare NAME --out {folder}"
        )
    if split not in shards:
        raise DataError(f"data.path: {folder} has no split {split!r}, only {', '.join(shards)}")
    return Samples(shards[split])


class Samples(Sequence[Sample]):
    """The samples of one split, read from memory-mapped shards when they are asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the shards' footers and read the ids; no picture is read yet.

        Raises:
            DataError: a file is no parquet or lacks a column.
        """
        self._groups: list[tuple[pq.ParquetFile, int]] = []
        self._starts: list[int] = []
        self.ids: list[str] = []  # in the order of the rows
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
        """Return one sample (negative indices count from the end) or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._starts, position) - 1
        return _from_row(self._group(number)[position - self._starts[number]])

    def _add_shard(self, file: Path) -> None:
        try:
            shard = pq.ParquetFile(file, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: not a readable parquet file: {error}") from error
        missing = [name for name in _COLUMNS if name not in shard.schema_arrow.names]
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
            rows = shard.read_row_group(local, list(_COLUMNS), use_threads=False).to_pylist()
            self._cache[number] = rows
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
            return rows


class _ShardWriter:
    """Writes one split's samples into numbered files of `shard_rows` rows."""

    def __init__(self, folder: Path, split: str, shard_rows: int) -> None:
        self._folder, self._split, self._shard_rows = folder, split, shard_rows
        self._pending: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows_in_file = 0
        self.files = 0

    def add(self, sample: Sample) -> None:
        self._pending.append(_to_row(sample))
        full = self._rows_in_file + len(self._pending) >= self._shard_rows
        if full or len(self._pending) >= ROW_GROUP_ROWS:
            self._flush()
        if full:
            self.close()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._rows_in_file = None, 0

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            name = self._folder / f"{self._split}-{self.files:05d}.parquet"
            # Pictures are compressed already; a dictionary of unique values only costs.
            self._writer = pq.ParquetWriter(
                name, _schema(), compression="NONE", use_dictionary=False
            )
            self.files += 1
        table = pa.Table.from_pylist(self._pending, schema=_schema())
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._rows_in_file += len(self._pending)
        self._pending = []


def _write_shards(folder: Path, samples: Iterable[Sample], shard_rows: int) -> Counts:
    writers: dict[str, _ShardWriter] = {}
    counts = Counts()
    seen: set[str] = set()
    for sample in samples:
        validate(sample)
        if sample.id in seen:
            raise DataError(f"{sample.dataset} record {sample.id!r}: the id comes twice")
        seen.add(sample.id)
        if sample.split not in writers:
            writers[sample.split] = _ShardWriter(folder, sample.split, shard_rows)
        writers[sample.split].add(sample)
        counts.rows[sample.split] = counts.rows.get(sample.split, 0) + 1
        counts.images += len(sample.images)
        counts.image_bytes += sum(map(len, sample.images))
    if not seen:
        raise DataError("there are no samples to write")
    for writer in writers.values():
        writer.close()
        counts.files += writer.files
    return counts


def _bad_image(sample: Sample) -> str | None:
    for number, data in enumerate(sample.images, start=1):
        try:
            header_size(data)
        except DataError as error:
            return f"an image cannot be read: image {number}: {error}"
    return None


def _unstorable(sample: Sample) -> str | None:
    try:
        row = {k: v for k, v in _to_row(sample).items() if k != "images"}
        json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        return f"the text or metadata cannot be stored: {error}"
    return None


def _to_row(sample: Sample) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in _COLUMNS}
    row["images"] = [{"bytes": data, "path": None} for data in sample.images]
    row["choices"] = list(sample.choices)
    row["metadata"] = json.dumps(sample.metadata, ensure_ascii=False, allow_nan=False)
    return row


def _from_row(row: dict[str, Any]) -> Sample:
    fields = dict(row)
    fields["images"] = tuple(image["bytes"] for image in row["images"] or ())
    fields["choices"] = tuple(row["choices"] or ())
    fields["metadata"] = json.loads(row["metadata"])
    return Sample(**fields)


def _schema() -> pa.Schema:
    """The columns, with the metadata by which `datasets` recognises pictures."""
    features: dict[str, Any] = {
        name: {"dtype": str(kind), "_type": "Value"} for name, kind in _COLUMNS.items()
    }
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["choices"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    info = json.dumps({"info": {"features": features}})
    return pa.schema(list(_COLUMNS.items()), metadata={"huggingface": info})


def _shards(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        match = _SHARD.fullmatch(file.name)
        if match:
            found.setdefault(match["split"], []).append(file)
    return found


def _refuse_occupied(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file, not a folder for a data set")
    entries = [entry.name for entry in target.iterdir()] if target.exists() else []
    foreign = [n for n in entries if n != REPORT_NAME and not _SHARD.fullmatch(n)]
    if foreign:
        raise DataError(f"{target} holds other files ({foreign[0]}, ...); choose another folder")
    if entries and not overwrite:
        raise DataError(f"{target} holds a data set already; choose another folder or overwrite it")


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(retired / target.name)
    temporary.rename(target)
    shutil.rmtree(retired)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
