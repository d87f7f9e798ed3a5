"""Copies of a run's metrics elsewhere: TensorBoard, Weights & Biases, trackio.

RUN/metrics.jsonl is the source of truth (metrics.py). A resumed run goes on from its newest
checkpoint, so that rows beyond it are dropped from the file, and each tracker has to forget them:

- TensorBoard's events are written again from the file whenever a run is opened.
- W&B is asked to rewind the run (`resume_from=ID?_step=N`), which it has to have enabled for the
  account. Where it refuses, or works offline, a new run gets all rows of the file.
- trackio can't rewind: a new run gets all rows of the file.

The older run is left as it was. A run's name there, and the number of rows that it may hold, are in
RUN/wandb.json and RUN/trackio.json. In W&B the number of a row is its `_step`; figures are drawn
over the step of their phase.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sapo_vl.errors import SetupError, printable
from sapo_vl.runs.files import read_json, write_json

Row = Mapping[str, Any]
"""A row of metrics.jsonl, see metrics.MetricsRow."""

PHASES = ("sft", "train", "eval")


class Tracker(Protocol):
    """Where rows are copied to."""

    def write(self, row: Row) -> None:
        """Copy the row that follows the ones written so far."""

    def close(self) -> None:
        """Flush everything; nothing is written afterwards."""


class TensorBoard:
    """RUN/tensorboard: a row's numbers as PHASE/NAME."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], rows: Iterable[Row]) -> None:
        """Write new events of `rows`, and the config. Raises SetupError without the package."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SetupError(
                f"run.tensorboard needs the package tensorboard ({error}); "
                "install it or set run.tensorboard=false"
            ) from error
        folder = run_dir / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        text = json.dumps(config, indent=2, default=str)
        self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Add the row's numbers at its step."""
        step = int(row.get("step") or 0)
        for key, value in numbers(row).items():
            if key != "step":
                self._writer.add_scalar(f"{row.get('phase', 'run')}/{key}", value, step)

    def close(self) -> None:
        """Flush the events."""
        self._writer.close()


class WandB:
    """A Weights & Biases run; WANDB_PROJECT and its other variables apply."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open the run of RUN/wandb.json, or a new one, with `rows`.

        Raises SetupError if W&B is missing or can't be used.
        """
        try:
            import wandb
        except ImportError as error:
            raise SetupError(
                "run.wandb needs the package wandb; install sapo-vl[wandb] or set run.wandb=false"
            ) from error
        known = TrackedRun(run_dir / "wandb.json")
        self._options = {
            "project": os.environ.get("WANDB_PROJECT", "sapo_vl"),
            "dir": str(run_dir),
            "config": dict(config),
        }
        try:
            self._run = self._resumed(wandb, known, run_dir, len(rows))
            self._count = len(rows)  # rows logged so far, which is the next one's `_step`
            new = uuid.uuid4().hex[:12] if self._run is None else None
            if new is not None:
                label = known.label(run_dir, known.opened + 1)
                self._run = wandb.init(id=new, resume="allow", name=label, **self._options)
                self._count = 0
        except wandb.errors.Error as error:
            raise SetupError(
                f"Weights & Biases can't be used ({printable(error)}); set WANDB_API_KEY, "
                "WANDB_MODE=offline or run.wandb=false"
            ) from error
        for phase in PHASES:
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
        for row in rows[self._count :]:
            self.write(row)
        if new is not None:
            known.open(new)

    def _resumed(self, wandb: Any, known: TrackedRun, run_dir: Path, kept: int) -> Any:
        """Return the known run, which holds the first `kept` rows; None where a new one is due."""
        if known.id is None:
            return None
        options = self._options | {"name": known.label(run_dir, known.opened)}
        if not known.holds_more_than(kept):
            return wandb.init(id=known.id, resume="allow", **options)
        if kept == 0 or wandb.setup().settings.mode in ("offline", "dryrun"):
            return None
        try:
            run = wandb.init(resume_from=f"{known.id}?_step={kept - 1}", **options)
        except wandb.errors.Error as error:
            print(
                f"run.wandb: the run {known.id} can't be rewound to the checkpoint "
                f"({printable(error)}): a new run gets all its rows",
                flush=True,
            )
            return None
        known.open(known.id)
        return run

    def write(self, row: Row) -> None:
        """Log the row's numbers, texts and nulls as PHASE/NAME."""
        phase = row.get("phase", "run")
        values = {k: v for k, v in row.items() if k != "phase" and not isinstance(v, dict)}
        self._run.log({f"{phase}/{k}": v for k, v in values.items()}, step=self._count)
        self._count += 1

    def close(self) -> None:
        """Wait until everything is uploaded."""
        self._run.finish()


class Trackio:
    """A trackio run; TRACKIO_PROJECT names its project, TRACKIO_DIR the folder of its data."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open the run of RUN/trackio.json, or a new one, with `rows`.

        Its name is the folder's with a random number, as trackio knows runs by name only.

        Raises SetupError if trackio is missing or can't be used.
        """
        try:
            import trackio
        except ImportError as error:
            raise SetupError(
                "run.trackio needs the package trackio; install sapo-vl[trackio] or set "
                "run.trackio=false"
            ) from error
        known = TrackedRun(run_dir / "trackio.json")
        is_new = known.id is None or known.holds_more_than(len(rows))
        name = f"{run_dir.name}-{uuid.uuid4().hex[:6]}" if is_new else known.id
        try:
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "sapo_vl"),
                name=name,
                config=dict(config),
                resume="allow",
                embed=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise SetupError(
                f"trackio can't be used ({printable(error)}); mend it or set run.trackio=false"
            ) from error
        if is_new:
            for row in rows:
                self.write(row)
            known.open(str(name))

    def write(self, row: Row) -> None:
        """Log the row's numbers as PHASE/NAME at its step."""
        phase, step = row.get("phase", "run"), int(row.get("step") or 0)
        self._run.log({f"{phase}/{k}": v for k, v in numbers(row).items()}, step=step)

    def close(self) -> None:
        """Wait until everything is stored."""
        self._run.finish()


class TrackedRun:
    """A file that says which run of a tracker is this one's, and how many rows it may hold."""

    def __init__(self, path: Path) -> None:
        """Read the file; without one, `id` is None."""
        self._path = path
        saved = read_json(path) or {}
        self.id: str | None = saved.get("id")
        self.opened: int = saved.get("opened", 0)  # runs so far
        self._rows: int = saved.get("rows", 0)

    def holds_more_than(self, rows: int) -> bool:
        """Whether the run may hold rows beyond the first `rows` ones."""
        return self._rows > rows

    @staticmethod
    def label(run_dir: Path, number: int) -> str:
        """Return the displayed name of the run opened as `number`-th: the folder's, then NAME-2."""
        return run_dir.name + (f"-{number}" if number > 1 else "")

    def open(self, id: str) -> None:
        """Note a run that holds what metrics.jsonl does."""
        self.opened += id != self.id
        self.id, self._rows = id, 0
        self._write()

    def dropping(self, rows: int) -> None:
        """Note that metrics.jsonl had `rows` rows, before some are dropped."""
        if self.id is not None and rows > self._rows:
            self._rows = rows
            self._write()

    def _write(self) -> None:
        write_json(self._path, {"id": self.id, "rows": self._rows, "opened": self.opened})


def note_dropped(run_dir: Path, rows: int) -> None:
    """Note, before rows of metrics.jsonl are dropped, that trackers may hold all `rows` of it."""
    for name in ("wandb.json", "trackio.json"):
        TrackedRun(run_dir / name).dropping(rows)


def numbers(row: Row) -> dict[str, float]:
    """Return the numbers of a row by name."""
    return {key: value for key, value in row.items() if isinstance(value, int | float)}
