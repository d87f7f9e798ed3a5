"""A run's metrics: RUN/metrics.jsonl, one JSON object per row, copied to trackers (trackers.py).

A row has a phase ("sft", "train" or "eval"), a step, and scalars by name. A training row also has
`mini_batches`: for each statistic the list of its values per optimizer step, and, where responses
have no verdict, `no_verdict`: how many by cause. Trackers leave both out. The file is the source of
truth: trackers are made to agree with it when a run is opened. A value that is not finite is stored
as null, as JSON has no NaN. Only rank 0 writes.

Worked example: {"phase": "train", "step": 3, "reward/mean": 0.41, "mismatch/kl": null}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError
from sapo_vl.runs.files import atomic_write
from sapo_vl.runs.trackers import Tracker, note_dropped

MetricsRow = dict[str, Any]
"""A row of metrics.jsonl. Its keys are the metrics' names, an open set that no TypedDict lists."""

FILE = "metrics.jsonl"


def read(run_dir: Path) -> list[MetricsRow]:
    """Return all rows in order; none if there is no file.

    An incomplete last line (killed process) is ignored. Raises DataError for any other line that is
    not a JSON object.
    """
    path = run_dir / FILE
    if not path.exists():
        return []
    *lines, tail = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{path}, line {number} is not JSON: {line[:80]!r}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is not a JSON object: {line[:80]!r}")
        rows.append(row)
    try:
        last = json.loads(tail)  # empty if the last line ends with a newline
    except ValueError:
        return rows
    return [*rows, last] if isinstance(last, dict) else rows


def truncate(run_dir: Path, last_step: Mapping[str, int]) -> int:
    """Drop the rows beyond each phase's last step; return how many were dropped.

    Rows of phases that are not in `last_step` stay. The file is replaced atomically.
    """

    def is_beyond(row: MetricsRow) -> bool:
        phase, step = row.get("phase"), row.get("step")
        return isinstance(step, int) and phase in last_step and step > last_step[str(phase)]

    return drop(run_dir, is_beyond)


def drop(run_dir: Path, unwanted: Callable[[MetricsRow], bool]) -> int:
    """Drop the rows for which `unwanted` is true; return how many. Replaces the file atomically."""
    rows = read(run_dir)
    remaining = [row for row in rows if not unwanted(row)]
    if len(remaining) < len(rows):
        note_dropped(run_dir, len(rows))
    _replace(run_dir / FILE, remaining)
    return len(rows) - len(remaining)


def _replace(path: Path, rows: Sequence[MetricsRow]) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


OpenTracker = Callable[[Path, Mapping[str, Any], Sequence[MetricsRow]], Tracker]
"""A tracker's class: called with the run's folder, its config, and the rows of metrics.jsonl."""


class MetricsWriter:
    """Appends rows to RUN/metrics.jsonl and copies them to trackers."""

    def __init__(
        self,
        run_dir: Path,
        config: Mapping[str, Any] | None = None,
        trackers: Sequence[OpenTracker] = (),
    ) -> None:
        """Open a new or a resumed run (call `truncate` first). Trackers may raise SetupError."""
        run_dir.mkdir(parents=True, exist_ok=True)
        rows = read(run_dir)
        _replace(run_dir / FILE, rows)  # without an incomplete last line
        self._file = (run_dir / FILE).open("a", encoding="utf-8")
        self._trackers = [tracker(run_dir, config or {}, rows) for tracker in trackers]

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row: "phase", "step", and numbers, strings or maps by name."""
        clean = {key: _clean(key, value) for key, value in row.items()}
        self._file.write(json.dumps(clean, allow_nan=False) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(clean)

    def close(self) -> None:
        """Flush and close everything; a second call does nothing."""
        self._file.close()
        while self._trackers:
            self._trackers.pop().close()


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: [_plain(f"{key}.{name}", item) for item in entry]
            if isinstance(entry, Sequence) and not isinstance(entry, str)
            else _plain(f"{key}.{name}", entry)
            for name, entry in value.items()
        }
    return _plain(key, value)


def _plain(key: str, value: Any) -> float | int | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    assert isinstance(value, Real), f"metric {key}={value!r} is neither a number nor a string"
    return float(value) if math.isfinite(value) else None
