"""A run's metrics: RUN/metrics.jsonl, one JSON object per row, mirrored to TensorBoard and W&B.

A row has a phase ("sft", "train" or "eval"), a step, and scalars by name. A training row also has
`mini_batches`: for each statistic the list of its values per optimizer step, and, where responses
have no verdict, `no_verdict`: how many by cause. TensorBoard and W&B leave both out. The file is
the source of truth: TensorBoard's events are rewritten from it when a run is opened, so that both
agree after a resume. A value that is not finite is stored as null, as JSON has no NaN. Only rank 0
writes.

Worked example: {"phase": "train", "step": 3, "reward/mean": 0.41, "mismatch/kl": null}

Left out: rewinding Weights & Biases, which shows the steps since the checkpoint twice after a
resume.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError, SetupError
from sapo_vl.runs.files import atomic_write

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
    _replace(run_dir / FILE, remaining)
    return len(rows) - len(remaining)


def _replace(path: Path, rows: Sequence[MetricsRow]) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


class MetricsWriter:
    """Appends rows to RUN/metrics.jsonl and mirrors their scalars to TensorBoard and W&B."""

    def __init__(
        self,
        run_dir: Path,
        *,
        tensorboard: bool,
        wandb: bool,
        wandb_project: str | None,
        config: dict[str, Any],
    ) -> None:
        """Open a new or a resumed run (call `truncate` first).

        Raises SetupError if TensorBoard or W&B is missing or can't be used.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        rows = read(run_dir)
        _replace(run_dir / FILE, rows)  # without an incomplete last line
        self._file = (run_dir / FILE).open("a", encoding="utf-8")
        self._tensorboard = _open_tensorboard(run_dir, config) if tensorboard else None
        self._wandb = _open_wandb(run_dir, wandb_project, config) if wandb else None
        for row in rows:
            self._to_tensorboard(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row: "phase", "step", and numbers, strings or maps by name."""
        clean = {key: _clean(key, value) for key, value in row.items()}
        self._file.write(json.dumps(clean, allow_nan=False) + "\n")
        self._file.flush()
        self._to_tensorboard(clean)
        if self._wandb is not None:
            phase = clean.get("phase", "run")
            scalars = {k: v for k, v in clean.items() if not isinstance(v, dict)}
            self._wandb.log({f"{phase}/{k}": v for k, v in scalars.items() if k != "phase"})

    def close(self) -> None:
        """Flush and close everything; a second call does nothing."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None

    def _to_tensorboard(self, row: MetricsRow) -> None:
        if self._tensorboard is None:
            return
        step = int(row.get("step") or 0)
        for key, value in row.items():
            if isinstance(value, int | float) and key != "step":
                self._tensorboard.add_scalar(f"{row.get('phase', 'run')}/{key}", value, step)


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
