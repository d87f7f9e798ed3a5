"""Opening a run's metrics: a resumed run drops the rows that its checkpoints do not cover."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sapo_vl.config import dump
from sapo_vl.runs import metrics
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint


@contextmanager
def open_metrics(run: Run, *, resume: bool) -> Iterator[MetricsWriter | None]:
    """Open RUN/metrics.jsonl and its mirrors on rank 0; yield None on other ranks."""
    if distributed.rank() != 0:
        yield None
        return
    if resume:
        metrics.truncate(run.dir, _covered_steps(run))
        metrics.drop(run.dir, lambda row: _lacks_summary(run, row))
    options = run.config.run
    writer = MetricsWriter(
        run.dir,
        tensorboard=options.tensorboard,
        wandb=options.wandb,
        wandb_project=os.environ.get("WANDB_PROJECT", "sapo_vl"),
        config=dump(run.config),
    )
    try:
        yield writer
    finally:
        writer.close()


def _lacks_summary(run: Run, row: metrics.MetricsRow) -> bool:
    """Whether an evaluation's row was written, but not its file, which is written next."""
    name = row.get("name")
    return row.get("phase") == "eval" and not (run.dir / "eval" / f"{name}.json").exists()


def _covered_steps(run: Run) -> dict[str, int]:
    """Return the last step of each phase that a checkpoint holds."""

    def last_step(root: Path) -> int:
        newest = checkpoint.latest(root)
        return int(newest.name.removeprefix("step_").split("+")[0]) if newest else 0

    warmup = run.dir / "warmup"
    sft = run.config.sft.steps if (warmup / "final").exists() else last_step(warmup / "checkpoints")
    train = last_step(run.dir / "checkpoints")
    return {"sft": sft, "train": train, "eval": train}
