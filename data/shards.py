"""Write a data set's shards into a hidden folder that is renamed when it is complete.

    with DatasetWriter("runs/data", key="geometry3k ...") as writer:
        for sample in islice(samples, writer.state.get("read", 0), None):
            writer.add(sample)
        writer.finish(report_json)

The hidden folder lies beside the target and holds a marker with the target's path; without it the
folder is somebody else's and is left alone. Its checkpoint lists the complete shards; a later
`DatasetWriter` with the same key resumes from it, one with another key starts over.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sapo_vl.data.atomic import atomic_path, replace_folder
from sapo_vl.data.records import schema, to_row, validate
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

REPORT_NAME = "report.json"
"""Beside the shards; how the data set was prepared (see report.py)."""

ROW_GROUP_ROWS = 16
"""A random read loads one row group; small, so that it loads at most 16 large images."""

CHECKPOINT_NAME = "checkpoint.json"
"""In the hidden folder; the complete shards, and the caller's state at that point."""

LOCK_NAME = "lock"
"""In the hidden folder; the marker, locked by the process that writes it."""

MARKER = "sapo-vl prepares in this folder: "
"""The marker's text; the target's path follows."""

SHARD = re.compile(r"(?P<split>\w+)-\d{5}\.parquet")


@dataclass(slots=True)
class Counts:
    """What a `DatasetWriter` has written."""

    rows: dict[str, int] = field(default_factory=dict)  # split -> samples
    images: int = 0  # in all splits
    image_bytes: int = 0  # their encoded size
    files: int = 0  # parquet shards


class DatasetWriter:
    """Writes a data set; a context manager. After an error the last checkpoint is kept."""

    def __init__(
        self, target: str | Path, key: str, shard_rows: int = 1000, *, overwrite: bool = False
    ) -> None:
        """Resume from a checkpoint with the same `key`, or start over.

        Raises:
            DataError: the target is not empty, or another process is writing it.
        """
        self._target, self._shard_rows = Path(target).absolute(), shard_rows
        refuse_occupied(self._target, overwrite)
        self._key, self._overwrite = key, overwrite
        self.folder = self._target.parent / f".{self._target.name}.partial"
        self._lock = self._acquire_lock()
        self._writers: dict[str, _ShardWriter] = {}
        self.ids: set[str] = set()  # of the samples written so far
        self.counts = Counts()
        self.state: dict[str, Any] = {}  # the caller's state at the checkpoint; {} without one
        self._is_kept = False  # complete, but it could not be renamed
        self._has_checkpoint = self._recover()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._has_checkpoint and not self._is_kept and self.folder.exists():
            self._remove_partial()
        self._lock.close()

    def add(self, sample: Sample) -> None:
        """Write one sample.

        Raises:
            DataError: the sample is invalid, or its id is repeated.
        """
        validate(sample)
        if sample.id in self.ids:
            raise DataError(f"{sample.dataset} record {sample.id!r}: the id is repeated")
        self.ids.add(sample.id)
        if sample.split not in self._writers:
            self._writers[sample.split] = _ShardWriter(self.folder, sample.split, self._shard_rows)
        self._writers[sample.split].add(sample)
        self.counts.rows[sample.split] = self.counts.rows.get(sample.split, 0) + 1
        self.counts.images += len(sample.images)
        self.counts.image_bytes += sum(map(len, sample.images))

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Close the open shards and save the progress, with the caller's `state`."""
        self._close_shards()
        note = {
            "key": self._key,
            "counts": asdict(self.counts),
            "files": {split: writer.files for split, writer in self._writers.items()},
            "state": state,
        }
        with atomic_path(self.folder / CHECKPOINT_NAME) as temporary:
            temporary.write_text(json.dumps(note), encoding="utf-8")
        self._has_checkpoint = True

    def finish(self, report: str | None = None) -> Counts:
        """Rename the hidden folder to the target and return the counts.

        Raises:
            DataError: there are no samples, or the target has appeared in the meantime. The set is
                kept in the hidden folder then.
        """
        if not self.ids:
            raise DataError("there are no samples to write")
        self._close_shards()
        if report is not None:
            (self.folder / REPORT_NAME).write_text(report, encoding="utf-8")
        self._is_kept = True
        for name in (CHECKPOINT_NAME, LOCK_NAME):
            (self.folder / name).unlink(missing_ok=True)
        try:
            refuse_occupied(self._target, self._overwrite)
            replace_folder(self.folder, self._target, _is_ours, overwrite=self._overwrite)
        except (DataError, OSError) as error:
            raise DataError(
                f"{error}; the finished set is in {self.folder}: rename that folder"
            ) from error
        return self.counts

    def _acquire_lock(self) -> IO[str]:
        """Mark the hidden folder as ours and lock it.

        Raises:
            DataError: the folder is somebody else's, or another process holds the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        marker, text = self.folder / LOCK_NAME, f"{MARKER}{self._target}\n"
        entries = {entry.name for entry in self.folder.iterdir()}
        marked = marker.is_file() and marker.read_text(errors="replace").startswith(MARKER)
        foreign = sorted(name for name in entries if not _is_own_name(name))
        if foreign or (entries and not marked):
            raise DataError(
                f"{self.folder} holds files that no preparation made "
                f"({(foreign or sorted(entries))[0]}, ...); move it away or choose another folder"
            )
        lock = marker.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DataError(f"{self._target}: another process is writing it") from error
        lock.truncate(0)
        lock.write(text)
        lock.flush()
        return lock

    def _remove_partial(self) -> None:
        """Delete the hidden folder's files by the names that this class gives."""
        for path in list(self.folder.iterdir()):
            if _is_own_name(path.name):
                _remove(path)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _recover(self) -> bool:
        """Load the checkpoint if its key matches; delete all files that it does not list."""
        file = self.folder / CHECKPOINT_NAME
        try:
            note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError:
            note = {}  # damaged: start over
        resumable = isinstance(note, dict) and note.get("key") == self._key
        files = note["files"] if resumable else {}
        complete = [
            self.folder / _shard_name(split, number)
            for split, count in files.items()
            for number in range(count)
        ]
        for path in self.folder.iterdir():
            is_checkpoint = resumable and path == file
            kept = path in complete or path.name == LOCK_NAME or is_checkpoint
            if _is_own_name(path.name) and not kept:
                _remove(path)
        if not resumable:
            return False
        for split, count in files.items():
            self._writers[split] = _ShardWriter(self.folder, split, self._shard_rows, count)
        for path in complete:
            self.ids.update(pq.read_table(path, columns=["id"])["id"].to_pylist())
        self.counts, self.state = Counts(**note["counts"]), note["state"]
        return True

    def _close_shards(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self.counts.files = sum(writer.files for writer in self._writers.values())


class _ShardWriter:
    """Writes one split into numbered files of `shard_rows` rows."""

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
            name = self._folder / _shard_name(self._split, self.files)
            # Images are compressed already, and a dictionary of unique values only adds cost.
            self._writer = pq.ParquetWriter(
                name, schema(), compression="NONE", use_dictionary=False
            )
            self.files += 1
        table = pa.Table.from_pylist(self._pending, schema=schema())
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._rows_in_file += len(self._pending)
        self._pending = []


def _shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.parquet"


def fingerprint(source: object) -> list[int]:
    """Return [files, bytes, latest mtime in ns] of a file or folder; [] if it does not exist.

    Part of a writer's key, so that partial output is discarded when the source has changed.
    """
    path = str(source)
    files = [path] if os.path.isfile(path) else []
    if os.path.isdir(path):
        files = [os.path.join(folder, n) for folder, _, names in os.walk(path) for n in names]
    stats = [os.stat(file) for file in files if os.path.exists(file)]
    if not stats:
        return []
    return [len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)]


def _is_own_name(name: str) -> bool:
    """Whether a `DatasetWriter` gives this name to a file of its hidden folder."""
    own = name in (CHECKPOINT_NAME, LOCK_NAME, REPORT_NAME)
    return own or name.startswith(f".{CHECKPOINT_NAME}.new.") or SHARD.fullmatch(name) is not None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_ours(path: Path) -> bool:
    """Whether a file is part of a data set."""
    return path.is_file() and (path.name == REPORT_NAME or SHARD.fullmatch(path.name) is not None)


def refuse_occupied(target: Path, overwrite: bool) -> None:
    """Raise DataError unless `target` is free, or a data set that `overwrite` allows to replace."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file; the data set needs a folder")
    entries = [entry.name for entry in target.iterdir()] if target.exists() else []
    foreign = [n for n in entries if not _is_ours(target / n)]
    if foreign:
        raise DataError(f"{target} holds other files ({foreign[0]}, ...); choose another folder")
    if entries and not overwrite:
        raise DataError(f"{target} holds a data set already; choose another folder, or --overwrite")
