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
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
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
TOKENS = ("token_ids", "generator_logprobs", "old_logprobs", "gate_weights", "log_ratios")
TOKENS += ("entropies",)

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)
"""Raised by pyarrow for a file that is cut off, damaged or of another kind."""

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
        """Return the largest of `values`; -1 without any."""
        return max(self.values(name), default=-1.0)


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
        names = sorted((run_dir / FOLDER).glob("*")) if (run_dir / FOLDER).is_dir() else []
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(self._open, names))
        for file in found:
            if file is not None:
                self.steps.setdefault(_number(file.path), []).append(file)
        self.steps = dict(sorted(self.steps.items()))
        if not self.steps:
            raise DataError(f"{printable(run_dir / FOLDER)}: {self._nothing()}")
        self.groups = lru_cache(KEPT_STEPS)(self._groups)  # type: ignore[method-assign]

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
        raise NotImplementedError  # replaced by __init__: the cache belongs to this object

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
        if not step.isdecimal():
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
        rows = group.file.read(columns, group.start, group.stop).to_pylist()
        responses = [
            StoredResponse(
                summary,
                row["response"],
                _terms(row["verdicts"]),
                {name: row.get(name) for name in TOKENS} if tokens else {},
            )
            for summary, row in zip(group.responses, rows, strict=True)
        ]
        responses.sort(key=lambda r: (not r.summary.valid, -r.summary.reward, r.summary.tokens))
        images = tuple(data for row in rows for data in row["images"] or ())
        return Loaded(group, rows[0]["problem"], rows[0]["answer"], images, tuple(responses))

    def steps_of(self, problem_id: str) -> list[int]:
        """Return the steps that sampled this problem."""
        return self._index.get(problem_id, [])

    @property
    def _index(self) -> dict[str, list[int]]:
        """The steps of each problem's id; reads one column of all files, once."""
        if not hasattr(self, "_steps_by_id"):
            with ThreadPoolExecutor(8) as pool:
                ids = list(pool.map(self._ids, self.steps))
            self._steps_by_id: dict[str, list[int]] = {}
            for step, names in zip(self.steps, ids, strict=True):
                for name in names:
                    self._steps_by_id.setdefault(name, []).append(step)
        return self._steps_by_id

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
    rows = table.to_pylist()
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
