"""Writing a data set's shards into a folder that takes its name only when it is whole.

    with Building("runs/data", key="geometry3k ...") as building:
        for sample in islice(samples, building.state.get("read", 0), None):
            building.add(sample)
        building.finish(report_json)

What is written so far lies in a hidden folder beside the target. A checkpoint there says which
shards are whole; a later `Building` with the same key goes on behind it, any other starts anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sapo_vl.data.records import schema, to_row, validate
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

REPORT_NAME = "report.json"
"""Lies beside the shards; says how the data set came about (see prepare.py)."""

ROW_GROUP_ROWS = 16
"""One random read costs one row group: few rows, so that 16 big pictures are the most it reads."""

CHECKPOINT_NAME = "checkpoint.json"
"""Lies in the hidden folder: which shards are whole, and the caller's state at that point."""

SHARD = re.compile(r"(?P<split>\w+)-\d{5}\.parquet")


@dataclass(slots=True)
class Counts:
    """What `write` put on disk."""

    rows: dict[str, int] = field(default_factory=dict)  # split -> samples
    images: int = 0  # pictures in all splits
    image_bytes: int = 0  # their encoded size
    files: int = 0  # parquet shards


class Building:
    """A data set being written; a context manager. An error keeps the last checkpoint."""

    def __init__(
        self, target: str | Path, key: str, shard_rows: int = 1000, *, overwrite: bool = False
    ) -> None:
        """Find a checkpoint of `key` to go on from, or start anew.

        Raises:
            DataError: the target is occupied, or another process is writing it.
        """
        self._target, self._shard_rows = Path(target).absolute(), shard_rows
        refuse_occupied(self._target, overwrite)
        self._key = key
        self.folder = self._target.parent / f".{self._target.name}.partial"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        self._writers: dict[str, _ShardWriter] = {}
        self.ids: set[str] = set()  # of the samples so far
        self.counts = Counts()
        self.state: dict[str, Any] = {}  # the caller's, as of the checkpoint; empty when new
        self._saved = self._recover()

    def __enter__(self) -> Building:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()
        if not self._saved and self.folder.exists():
            shutil.rmtree(self.folder)

    def add(self, sample: Sample) -> None:
        """Write one sample.

        Raises:
            DataError: it is not valid, or its id comes twice.
        """
        validate(sample)
        if sample.id in self.ids:
            raise DataError(f"{sample.dataset} record {sample.id!r}: the id comes twice")
        self.ids.add(sample.id)
        if sample.split not in self._writers:
            self._writers[sample.split] = _ShardWriter(self.folder, sample.split, self._shard_rows)
        self._writers[sample.split].add(sample)
        self.counts.rows[sample.split] = self.counts.rows.get(sample.split, 0) + 1
        self.counts.images += len(sample.images)
        self.counts.image_bytes += sum(map(len, sample.images))

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Close the shards and note that everything up to here is written."""
        self._close_shards()
        note = {
            "key": self._key,
            "counts": asdict(self.counts),
            "files": {split: writer.files for split, writer in self._writers.items()},
            "state": state,
        }
        new = self.folder / f"{CHECKPOINT_NAME}.new"
        new.write_text(json.dumps(note), encoding="utf-8")
        new.replace(self.folder / CHECKPOINT_NAME)
        self._saved = True

    def finish(self, report: str | None = None) -> Counts:
        """Give the data set its name and return what is in it.

        Raises:
            DataError: there are no samples.
        """
        if not self.ids:
            raise DataError("there are no samples to write")
        self._close_shards()
        for name in (CHECKPOINT_NAME, _LOCK):
            (self.folder / name).unlink(missing_ok=True)
        if report is not None:
            (self.folder / REPORT_NAME).write_text(report, encoding="utf-8")
        _replace(self.folder, self._target)
        return self.counts

    def _locked(self) -> IO[str]:
        lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DataError(f"{self._target}: another process is writing it") from error
        return lock

    def _recover(self) -> bool:
        """Take up the checkpoint of the same key, and remove whatever is not behind it."""
        note = self.folder / CHECKPOINT_NAME
        found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        mine = found.get("key") == self._key
        files = found["files"] if mine else {}
        whole = [self.folder / _name(split, n) for split, m in files.items() for n in range(m)]
        for file in self.folder.iterdir():
            if file not in whole and file.name != _LOCK and not (mine and file == note):
                file.unlink()
        if not mine:
            return False
        for split, number in files.items():
            self._writers[split] = _ShardWriter(self.folder, split, self._shard_rows, number)
        for file in whole:
            self.ids.update(pq.read_table(file, columns=["id"])["id"].to_pylist())
        self.counts, self.state = Counts(**found["counts"]), found["state"]
        return True

    def _close_shards(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self.counts.files = sum(writer.files for writer in self._writers.values())


class _ShardWriter:
    """Writes one split's samples into numbered files of `shard_rows` rows."""

    def __init__(self, folder: Path, split: str, shard_rows: int, files: int = 0) -> None:
        self._folder, self._split, self._shard_rows = folder, split, shard_rows
        self._pending: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows_in_file = 0
        self.files = files

    def add(self, sample: Sample) -> None:
        self._pending.append(to_row(sample))
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
            name = self._folder / _name(self._split, self.files)
            # Pictures are compressed already; a dictionary of unique values only costs.
            self._writer = pq.ParquetWriter(
                name, schema(), compression="NONE", use_dictionary=False
            )
            self.files += 1
        table = pa.Table.from_pylist(self._pending, schema=schema())
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._rows_in_file += len(self._pending)
        self._pending = []


_LOCK = "lock"


def _name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.parquet"


def fingerprint(source: object) -> list[int]:
    """Return a file's or folder's number of files, bytes and newest change; [] where it is none.

    What was written of a source that has changed since then is not gone on with.
    """
    path = str(source)
    files = [path] if os.path.isfile(path) else []
    if os.path.isdir(path):
        files = [os.path.join(folder, n) for folder, _, names in os.walk(path) for n in names]
    stats = [os.stat(file) for file in files if os.path.exists(file)]
    if not stats:
        return []
    return [len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)]


def refuse_occupied(target: Path, overwrite: bool) -> None:
    """Raise DataError when `target` is taken by anything but a data set that may be replaced."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file, not a folder for a data set")
    entries = [entry.name for entry in target.iterdir()] if target.exists() else []
    foreign = [n for n in entries if n != REPORT_NAME and not SHARD.fullmatch(n)]
    if foreign:
        raise DataError(f"{target} holds other files ({foreign[0]}, ...); choose another folder")
    if entries and not overwrite:
        raise DataError(f"{target} holds a data set already; choose another folder, or --overwrite")


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(retired / target.name)
    temporary.rename(target)
    shutil.rmtree(retired)
