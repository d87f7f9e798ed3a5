"""The numbers of a run: RUN/metrics.jsonl, one JSON object a row, and its mirrors.

A row has a phase ("sft", "train" or "eval"), a step, and scalars; a training step also has
`mini_batches`, for each statistic of its optimizer steps a list, which the mirrors leave out. The
file is the record: TensorBoard is written anew from it when a run is opened, so both agree after a
resume. A value that is not finite is stored as null, since JSON has no NaN. Only rank 0 writes.

Worked example: {"phase": "train", "step": 3, "reward/mean": 0.41, "mismatch/kl": null}

Left out: rewinding Weights & Biases. After a resume the steps since the checkpoint are there twice.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError, SetupError

Row = dict[str, Any]

FILE = "metrics.jsonl"


def read(run_dir: Path) -> list[Row]:
    """Return all rows in order; an empty list where there is no file.

    A last line that a killed process left incomplete is passed over. Raises DataError for any other
    line that is not a JSON object.
    """
    path = run_dir / FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    tail = lines.pop()  # empty when the last row is complete
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{path}, line {number} is not JSON: {line[:80]!r}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is not a JSON object: {line[:80]!r}")
        rows.append(row)
    return rows + _complete(tail)


def _complete(tail: bytes) -> list[Row]:
    try:
        row = json.loads(tail)
    except ValueError:
        return []
    return [row] if isinstance(row, dict) else []


def truncate(run_dir: Path, last_step: Mapping[str, int]) -> int:
    """Drop the rows of each named phase that lie beyond its last step; return how many went.

    Rows of phases that `last_step` doesn't name stay. The file is replaced at once: a kill leaves
    the old or the new one.
    """
    return drop(run_dir, lambda row: _beyond(row, last_step))


def drop(run_dir: Path, unwanted: Callable[[Row], bool]) -> int:
    """Drop the rows for which `unwanted` holds; return how many went. As `truncate` otherwise."""
    rows = read(run_dir)
    kept = [row for row in rows if not unwanted(row)]
    _replace(run_dir / FILE, kept)
    return len(rows) - len(kept)


def _beyond(row: Row, last_step: Mapping[str, int]) -> bool:
    phase, step = row.get("phase"), row.get("step")
    return isinstance(step, int) and phase in last_step and step > last_step[str(phase)]


def _replace(path: Path, rows: Iterable[Row]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class MetricsWriter:
    """Appends rows to RUN/metrics.jsonl and mirrors their scalars."""

    def __init__(
        self,
        run_dir: Path,
        *,
        tensorboard: bool,
        wandb: bool,
        wandb_project: str | None,
        config: dict[str, Any],
    ) -> None:
        """Open a new run or one that is resumed (call `truncate` first).

        Raises SetupError where a mirror's package is missing or can't be used.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        rows = read(run_dir)
        _replace(run_dir / FILE, rows)  # without the half row of a killed process
        self._file = (run_dir / FILE).open("a", encoding="utf-8")
        self._tensorboard = _open_tensorboard(run_dir, config) if tensorboard else None
        self._wandb = _open_wandb(run_dir, wandb_project, config) if wandb else None
        for row in rows:
            self._to_tensorboard(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row of numbers, strings and lists by name, with "phase" and "step" in it."""
        clean = {key: _clean(key, value) for key, value in row.items()}
        self._file.write(json.dumps(clean, allow_nan=False) + "\n")
        self._file.flush()
        self._to_tensorboard(clean)
        if self._wandb is not None:
            phase = clean.get("phase", "run")
            scalars = {k: v for k, v in clean.items() if not isinstance(v, dict)}
            self._wandb.log({f"{phase}/{k}": v for k, v in scalars.items() if k != "phase"})

    def close(self) -> None:
        """Flush and close the file and the mirrors; a second call does nothing."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None

    def _to_tensorboard(self, row: Row) -> None:
        if self._tensorboard is None:
            return
        step = int(row.get("train_step", row.get("step")) or 0)
        for key, value in row.items():
            if isinstance(value, int | float) and key not in ("step", "train_step"):
                self._tensorboard.add_scalar(f"{row.get('phase', 'run')}/{key}", value, step)


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: [_plain(f"{key}.{name}", v) for v in own] for name, own in value.items()}
    return _plain(key, value)


def _plain(key: str, value: Any) -> float | int | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    assert isinstance(value, Real), f"metric {key}={value!r} is neither a number nor a string"
    return float(value) if math.isfinite(value) else None


def _open_tensorboard(run_dir: Path, config: dict[str, Any]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SetupError(
            f"run.tensorboard needs the package tensorboard ({error}); "
            "install it or set run.tensorboard=false"
        ) from error
    folder = run_dir / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(str(folder))
    text = json.dumps(config, indent=2, default=str)
    writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))
    return writer


def _open_wandb(run_dir: Path, project: str | None, config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise SetupError(
            "run.wandb needs the package wandb; install sapo-vl[wandb] or set run.wandb=false"
        ) from error
    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    try:
        run = wandb.init(
            project=project,
            name=run_dir.name,
            id=id_file.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(run_dir),
            config=config,
        )
    except wandb.errors.Error as error:
        raise SetupError(
            f"Weights & Biases can't be used ({error}); set WANDB_API_KEY, WANDB_MODE=offline "
            "or run.wandb=false"
        ) from error
    for phase in ("sft", "train", "eval"):
        run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
    return run
