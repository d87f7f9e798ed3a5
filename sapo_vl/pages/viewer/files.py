"""A run's rollout files: footers and light columns first, texts and tokens when a page wants them.

    files = RolloutFiles(Path("runs/main"))
    groups = files.groups(20)                    # of step 20, from all ranks' files
    responses = files.responses(groups[0], tokens=True)

training/rollouts.py writes the files. Those of releases without `group` and the columns after it
are read too: neighbours with one id are a group then, and what is missing is computed or None. A
file that can't be read is named in `faults`, and the others are read.
"""

from __future__ import annotations

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sapo_vl.errors import DataError, printable

FOLDER = "rollouts"

NAME = re.compile(r"step_(\d+)(?:-rank(\d+))?\.parquet")

NEEDED = {
    **dict.fromkeys(("id", "task", "problem", "answer", "response"), pa.types.is_string),
    **dict.fromkeys(("finish_reason", "verdicts"), pa.types.is_string),
    **dict.fromkeys(("reward", "advantage"), pa.types.is_floating),
    **dict.fromkeys(("correct", "valid"), pa.types.is_boolean),
    **dict.fromkeys(("images", "token_ids"), pa.types.is_list),
}
"""Columns that every release wrote, with a check of their types."""

LIGHT = ("id", "task", "finish_reason", "reward", "correct", "valid", "advantage")
SCALARS = ("tokens", "mean_logprob", "largest_mismatch", "largest_log_ratio")
TEXTS = ("problem", "answer", "response", "verdicts", "images")
TOKENS = (
    *("token_ids", "generator_logprobs", "old_logprobs"),
    *("gate_weights", "log_ratios", "entropies"),
)

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)
"""Raised by pyarrow for a file that is cut off, damaged or of another kind."""

MOST_DIGITS = 12
"""Of a step in an address."""

KEPT_STEPS = 4
"""Steps whose groups stay in memory."""


@dataclass(frozen=True, slots=True)
class RolloutFile:
    """A file that could be opened."""

    path: Path
    rank: int
    footer: pq.FileMetaData

    @property
    def columns(self) -> set[str]:
        """Names of its columns."""
        return set(self.footer.schema.to_arrow_schema().names)

    def read(self, columns: tuple[str, ...], start: int = 0, stop: int | None = None) -> pa.Table:
        """Return rows [start, stop) of those of `columns` that it has; only their row groups.

        Raises DataError when the file is damaged there.
        """
        stop = self.footer.num_rows if stop is None else stop
        sizes = [self.footer.row_group(i).num_rows for i in range(self.footer.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        starts = ends - sizes
        wanted = [i for i in range(len(sizes)) if starts[i] < stop and ends[i] > start]
        names = [name for name in columns if name in self.columns]
        try:
            with pq.ParquetFile(self.path, metadata=self.footer) as file:
                table = file.read_row_groups(wanted, columns=names)
        except UNREADABLE as error:
            raise DataError(f"{self.path.name}: {_reason(error)}") from error
        first = int(starts[wanted[0]]) if wanted else 0
        return table.slice(start - first, stop - start)

    def rows(self, table: pa.Table) -> list[dict[str, Any]]:
        """Return a table of this file by rows. Raises DataError for text that is not UTF-8."""
        try:
            return table.to_pylist()
        except UNREADABLE as error:
            raise DataError(f"{self.path.name}: {_reason(error)}") from error


@dataclass(frozen=True, slots=True)
class ResponseSummary:
    """A response without its text."""

    reward: float
    correct: bool
    valid: bool  # False: there is no verdict
    advantage: float
    finish_reason: str
    tokens: int
    mean_logprob: float | None  # of the sampler, nats by token
    largest_mismatch: float | None  # largest |log mu - log pi_old|, nats
    largest_log_ratio: float | None  # largest |log pi_theta - log pi_old|, nats

    @property
    def wrong(self) -> bool:
        """Whether a verdict says so."""
        return self.valid and not self.correct


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """The responses to a problem in a step, and where they are."""

    step: int
    file: RolloutFile
    start: int  # first row in the file
    id: str
    task: str
    responses: tuple[ResponseSummary, ...]

    @property
    def stop(self) -> int:
        """One past the last row."""
        return self.start + len(self.responses)

    @property
    def key(self) -> str:
        """Its name in addresses, unique within the run."""
        return f"{self.step}-{self.file.rank}-{self.start}"

    def values(self, name: str) -> list[float]:
        """Return a number of each response, those left out that don't have it."""
        return [v for v in (getattr(r, name) for r in self.responses) if v is not None]

    def largest(self, name: str) -> float:
        """Return the largest of `values`, inf if one is not a number; -1 without any."""
        values = self.values(name)
        return math.inf if any(map(math.isnan, values)) else max(values, default=-1.0)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with its text."""

    summary: ResponseSummary
    text: str
    terms: tuple[tuple[str, str, float, str], ...]  # reward term, outcome, score, reason
    tokens: dict[str, list[Any] | None]  # a name of TOKENS: one value per token; None: not known


@dataclass(frozen=True, slots=True)
class Loaded:
    """A group with its texts."""

    group: StoredGroup
    problem: str
    answer: str
    images: tuple[bytes, ...]
    responses: tuple[StoredResponse, ...]  # by falling reward


class RolloutFiles:
    """The rollout files of a run. Opening reads their footers alone."""

    def __init__(self, run_dir: Path) -> None:
        """Find the files. Raises DataError if there is no run, or none of its files is readable."""
        self.run_dir = run_dir
        if not run_dir.is_dir():
            raise DataError(
                f"{printable(run_dir)} is not a folder: name a run's, such as runs/main"
            )
        self.faults: dict[str, str] = {}  # file name: why it is not shown
        self.steps: dict[int, list[RolloutFile]] = {}
        self._known: dict[Path, tuple[int, int]] = {}  # each file's time of change and size
        self._opened: dict[Path, RolloutFile] = {}
        self._steps_by_id: dict[str, list[int]] | None = None
        self._lock = Lock()
        self._kept = lru_cache(KEPT_STEPS)(self._groups)
        self.refresh()
        if not self.steps:
            raise DataError(f"{printable(run_dir / FOLDER)}: {self._nothing()}")

    def refresh(self) -> None:
        """Find what a run that goes on has written since, and open that alone."""
        with self._lock:
            found = {path: _stamp(path) for path in sorted((self.run_dir / FOLDER).glob("*"))}
            if found == self._known:
                return
            changed = [path for path, stamp in found.items() if self._known.get(path) != stamp]
            for path in changed + [path for path in self._known if path not in found]:
                self.faults.pop(path.name, None)
                self._opened.pop(path, None)
            with ThreadPoolExecutor(8) as pool:
                files = [file for file in pool.map(self._open, changed) if file is not None]
            self._opened |= {file.path: file for file in files}
            steps: dict[int, list[RolloutFile]] = {}
            for path in sorted(self._opened):
                steps.setdefault(_number(path), []).append(self._opened[path])
            if steps:
                self.steps = dict(sorted(steps.items()))
            self._known, self._steps_by_id = found, None
            self._kept.cache_clear()

    def _nothing(self) -> str:
        if self.faults:
            name, reason = next(iter(self.faults.items()))
            return f"no file of {len(self.faults)} can be read; {printable(name)}: {reason}"
        return "no rollouts; run.rollouts_every says how often a run writes them"

    def _open(self, path: Path) -> RolloutFile | None:
        match = NAME.fullmatch(path.name)
        try:
            if match is None:
                partial = path.name.endswith(".partial")
                raise DataError(
                    "half written: a run is writing it, or was killed" if partial
                    else "not a name of a rollout file (step_000001.parquet)"
                )  # fmt: skip
            footer = pq.read_metadata(path)
            schema = footer.schema.to_arrow_schema()
            for name, fits in NEEDED.items():
                if name not in schema.names or not fits(schema.field(name).type):
                    raise DataError(f"not a rollout file: it has no column {name} of that type")
        except UNREADABLE as error:
            self.faults[path.name] = _reason(error)
            return None
        return RolloutFile(path, int(match[2] or 0), footer)

    def groups(self, step: int) -> list[StoredGroup]:
        """Return the groups of a step, in the ranks' order; the last few steps' are kept.

        A file that turns out to be damaged is left out and named in `faults`.
        """
        return self._kept(step)

    def _groups(self, step: int) -> list[StoredGroup]:
        found: list[StoredGroup] = []
        for file in self.steps.get(step, ()):
            try:
                found += _read_groups(step, file)
            except DataError as error:
                self.faults[file.path.name] = str(error).partition(": ")[2]
        return found

    def group(self, key: str) -> StoredGroup | None:
        """Return the group of this key, or None."""
        step = key.partition("-")[0]
        if not step.isdecimal() or len(step) > MOST_DIGITS:
            return None
        return next((g for g in self.groups(int(step)) if g.key == key), None)

    def problems(self, step: int) -> dict[str, str]:
        """Return the text of each group's problem in a step, by the group's key."""
        texts: dict[str, str] = {}
        tables: dict[Path, pa.ChunkedArray] = {}
        for group in self.groups(step):
            path = group.file.path
            if path not in tables:
                tables[path] = group.file.read(("problem",))["problem"]
            texts[group.key] = tables[path][group.start].as_py()
        return texts

    def load(self, group: StoredGroup, *, tokens: bool = False) -> Loaded:
        """Read a group's texts, with `tokens` its values by token too.

        Raises DataError when the file is damaged there.
        """
        columns = TEXTS + (TOKENS if tokens else ())
        rows = group.file.rows(group.file.read(columns, group.start, group.stop))
        responses = [
            StoredResponse(
                summary,
                row["response"] or "",
                _terms(row["verdicts"] or "{}"),
                {name: row.get(name) for name in TOKENS} if tokens else {},
            )
            for summary, row in zip(group.responses, rows, strict=True)
        ]
        responses.sort(key=lambda r: (not r.summary.valid, -r.summary.reward, r.summary.tokens))
        images = tuple(data for row in rows for data in row["images"] or ())
        problem, answer = rows[0]["problem"] or "", rows[0]["answer"] or ""
        return Loaded(group, problem, answer, images, tuple(responses))

    def steps_of(self, problem_id: str) -> list[int]:
        """Return the steps that sampled this problem."""
        index = self._steps_by_id
        if index is None:
            self._steps_by_id = index = self._read_ids()
        return index.get(problem_id, [])

    def _read_ids(self) -> dict[str, list[int]]:
        """Return the steps of each problem's id; reads one column of all files."""
        steps = list(self.steps)
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(self._ids, steps))
        index: dict[str, list[int]] = {}
        for step, names in zip(steps, ids, strict=True):
            for name in names:
                index.setdefault(name, []).append(step)
        return index

    def _ids(self, step: int) -> set[str]:
        found: set[str] = set()
        for file in self.steps[step]:
            try:
                found.update(file.read(("id",))["id"].unique().to_pylist())
            except DataError as error:
                self.faults[file.path.name] = str(error).partition(": ")[2]
        return found

    def lacks(self, step: int, column: str) -> bool:
        """Whether a file of the step has no such column."""
        return any(column not in file.columns for file in self.steps.get(step, ()))


def _stamp(path: Path) -> tuple[int, int]:
    """Return what tells a rewritten file from the one before."""
    try:
        status = path.stat()
    except OSError:  # removed since it was listed
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _number(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def _reason(error: Exception) -> str:
    """Return an error of pyarrow in one line."""
    if isinstance(error, DataError):
        return printable(error)
    line = next(iter(str(error).strip().splitlines()), "")
    return f"cut off or damaged ({printable(line)[:160] or type(error).__name__})"


def _terms(text: str) -> tuple[tuple[str, str, float, str], ...]:
    try:
        return tuple((n, str(o), float(s), str(r)) for n, (o, s, r) in json.loads(text).items())
    except (ValueError, TypeError, AttributeError):
        return (("verdicts", "unreadable", 0.0, text[:200]),)


def _read_groups(step: int, file: RolloutFile) -> list[StoredGroup]:
    table = file.read(("group", *LIGHT, *SCALARS))
    if not set(SCALARS) <= file.columns:
        table = _with_scalars(table, file)
    rows = file.rows(table)
    mark = "group" if "group" in file.columns else "id"
    bounds = [i for i in range(len(rows)) if i == 0 or rows[i][mark] != rows[i - 1][mark]]
    return [
        StoredGroup(
            step,
            file,
            start,
            rows[start]["id"],
            rows[start]["task"],
            tuple(_summary(row) for row in rows[start:stop]),
        )
        for start, stop in zip(bounds, [*bounds[1:], len(rows)], strict=True)
    ]


def _summary(row: dict[str, Any]) -> ResponseSummary:
    return ResponseSummary(
        **{field.name: row[field.name] for field in fields(ResponseSummary)},
    )


def _with_scalars(table: pa.Table, file: RolloutFile) -> pa.Table:
    """Add the scalars of a file without them, computed from its values by token."""
    values = file.read(("token_ids", "generator_logprobs", "old_logprobs"))

    def lists(name: str) -> list[np.ndarray | None]:
        column = values[name].combine_chunks() if name in values.column_names else None
        if column is None:
            return [None] * len(table)
        return [None if not item.is_valid else item.values.to_numpy() for item in column]

    mu, old = lists("generator_logprobs"), lists("old_logprobs")
    columns: dict[str, list[Any]] = {
        "tokens": pc.list_value_length(values["token_ids"]).to_pylist(),
        "mean_logprob": [None if m is None or not len(m) else float(m.mean()) for m in mu],
        "largest_mismatch": [
            None if m is None or o is None or len(m) != len(o) else float(np.abs(m - o).max())
            for m, o in zip(mu, old, strict=True)
        ],
        "largest_log_ratio": [None] * len(table),
    }
    for name, items in columns.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array(items))
    return table
