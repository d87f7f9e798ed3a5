"""The best checkpoint by a held-out figure, and early stop when it no longer improves.

With checkpoint.best each evaluation during training has a checkpoint of its step. The one with the
highest figure is pinned (checkpoint.BEST) and exported to RUN/best at the end of the run
(report.py); RUN/final stays the last step's model. With evaluation.patience the run ends after that
many evaluations in a row without a new best.

Everything is read from RUN/metrics.jsonl and RUN/eval, so that a checkpoint holds nothing for it
and a resumed run decides as an undisturbed one does.

The highest of many noisy figures is too high on average, as it was chosen for being high: RUN/best
is to be measured on problems that had no part in the choice. Left out: a candidate before the first
step, which has no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.evaluation.heldout import evaluation_settings
from sapo_vl.runs import metrics
from sapo_vl.runs.files import read_json
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation of a run so far."""

    metric: str  # checkpoint.best
    step: int  # training steps before it
    value: float  # between 0 and 1
    evaluations: int  # among which it is the best
    later: int  # of these, made after it


def check_metric(config: Config, benchmarks: Collection[str]) -> None:
    """Raise ConfigError when checkpoint.best names none of the run's benchmarks."""
    metric = config.checkpoint.best
    known = ["avg", "greedy", *benchmarks]
    if metric is not None and metric not in known:
        raise ConfigError(
            f"checkpoint.best={metric} is no held-out figure of this run: "
            f"{', '.join(known)}{nearest(metric, known)}"
        )


def best_so_far(config: Config, step: int) -> Best | None:
    """Return the best evaluation after 1 to `step` steps; of equal ones the earliest.

    Evaluations with other settings (problems, samples, temperature, ..) don't count, nor do those
    without a figure. None without checkpoint.best, or where nothing is left.
    """
    metric = config.checkpoint.best
    if metric is None:
        return None
    column = metric if metric in ("avg", "greedy") else f"benchmark/{metric}"
    figures: dict[int, float] = {}  # by step; an evaluation made again replaces the earlier one
    settings = evaluation_settings(config)
    for row in metrics.read(config.run.dir):
        if row.get("phase") != "eval" or not 0 < row["step"] <= step or row.get(column) is None:
            continue
        summary = evaluation_file(config.run.dir, row)
        if summary is not None and summary.get("settings") == settings:
            figures[row["step"]] = row[column]
    if not figures:
        return None
    best = min(figures, key=lambda at: (-figures[at], at))
    later = sum(at > best for at in figures)
    return Best(metric, best, figures[best], len(figures), later)


def evaluation_file(run_dir: Path, row: metrics.MetricsRow) -> dict[str, Any] | None:
    """Return the summary in RUN/eval that an evaluation's row belongs to; None if there is none.

    An evaluation that was made again later has left its file beside the new one (report.py).
    """
    name, folder = row.get("name"), run_dir / "eval"
    for file in (folder / f"{name}.json", *sorted(folder.glob(f"{name}-step_*.json"))):
        summary: dict[str, Any] | None = read_json(file)
        if summary is not None and summary.get("step") == row.get("step"):
            return summary
    return None


class BestCheckpoint:
    """A run's best checkpoint so far, the same on all ranks."""

    def __init__(self, config: Config, checkpoints: Path, log: Callable[[str], None]) -> None:
        """`log` prints a line on rank 0."""
        self._config, self._checkpoints, self._log = config, checkpoints, log
        self.now: Best | None = None

    def update(self, step: int) -> None:
        """Take in the evaluations up to `step`, and pin the best one's checkpoint. Collective."""
        if self._config.checkpoint.best is None:
            return
        if distributed.rank() == 0:
            found = best_so_far(self._config, step)
            if found is not None:
                checkpoint.mark_best(self._checkpoints, found.step)
                if found != self.now and found.later == 0:
                    self._log(f"step {found.step}: {found.metric} {found.value:.4f}, the best yet")
            (self.now,) = distributed.all_gather([found])
        else:
            (self.now,) = distributed.all_gather([])

    @property
    def patience_lost(self) -> bool:
        """Whether evaluation.patience evaluations in a row were no better than the best."""
        patience = self._config.evaluation.patience
        return bool(patience) and self.now is not None and self.now.later >= patience
