"""Monitoring of a run: metrics, missing verdicts, non-finite gradients, collapse."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapo_vl.algorithm import staleness, telemetry
from sapo_vl.algorithm.reward_terms import commonest_cause, sum_by_name, term_rates
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import Config, dump
from sapo_vl.errors import RunError, printable
from sapo_vl.runs import metrics, trackers
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.system import distributed
from sapo_vl.training import autopsy, checkpoint
from sapo_vl.training.best import evaluation_file
from sapo_vl.training.parity import check_parity, mismatch_of
from sapo_vl.training.rollouts import is_written, write_parquet

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Step, Trainer


BUDGET_STEPS = 3
"""Steps over which the share of responses without a verdict is taken."""


class NonFiniteGradientError(RunError):
    """The gradient was not finite for learner.max_bad_steps optimizer steps in a row."""


class NoVerdictError(RunError):
    """More responses had no verdict than verifier.max_no_verdict allows."""


class CollapseError(RunError):
    """The collapse detector fired and collapse.action is stop."""


@contextmanager
def open_metrics(run: Run, *, resume: bool) -> Iterator[MetricsWriter | None]:
    """Open RUN/metrics.jsonl and its mirrors on rank 0; yield None on other ranks.

    On resume, rows that the checkpoints do not cover are dropped.
    """
    if distributed.rank() != 0:
        yield None
        return
    if resume:
        metrics.truncate(run.dir, _covered_steps(run))
        metrics.drop(run.dir, lambda row: _lacks_summary(run, row))
    options = run.config.run
    chosen: dict[metrics.OpenTracker, bool] = {
        trackers.TensorBoard: options.tensorboard,
        trackers.WandB: options.wandb,
        trackers.Trackio: options.trackio,
    }
    writer = MetricsWriter(
        run.dir, dump(run.config), [tracker for tracker, wanted in chosen.items() if wanted]
    )
    try:
        yield writer
    finally:
        writer.close()


def _lacks_summary(run: Run, row: metrics.MetricsRow) -> bool:
    """Whether this is the row of an evaluation whose summary file, written next, is missing."""
    return row.get("phase") == "eval" and evaluation_file(run.dir, row) is None


def _covered_steps(run: Run) -> dict[str, int]:
    """Return the last step of each phase that a checkpoint holds."""

    def last_step(root: Path) -> int:
        newest = checkpoint.latest(root)
        return checkpoint.step_of(newest) if newest else 0

    warmup = run.dir / "warmup"
    sft = run.config.sft.steps if (warmup / "final").exists() else last_step(warmup / "checkpoints")
    train = last_step(run.dir / "checkpoints")
    return {"sft": sft, "train": train, "eval": train}


def check_finite(trainer: Trainer, step: Step, report: UpdateReport) -> int:
    """Return the new count of non-finite updates in a row; if this is one, write an autopsy.

    Collective. Raises NonFiniteGradientError at learner.max_bad_steps.
    """
    if not report.skipped:
        return 0
    bad_steps = trainer.state.bad_steps + 1
    found = autopsy.at_bad_gradient(trainer, step)
    where = f"step {step.number + 1}, mini-batch {step.position + 1}"
    trainer.warn(step.number + 1, f"{where}: gradient not finite, update skipped; {found}")
    if bad_steps >= trainer.config.learner.max_bad_steps:
        raise NonFiniteGradientError(
            f"{bad_steps} optimizer steps in a row had no finite gradient "
            f"(learner.max_bad_steps); {where}: {found}"
        )
    return bad_steps


class VerdictBudget:
    """The share of responses without a verdict over the last steps, against its limit."""

    def __init__(self, limit: float, steps: int) -> None:
        """`limit` is verifier.max_no_verdict; a run of fewer `steps` is judged by all of them."""
        self._limit = limit
        self._rows: deque[metrics.MetricsRow] = deque(maxlen=max(1, min(BUDGET_STEPS, steps)))

    def observe(self, row: metrics.MetricsRow) -> str | None:
        """Take in a training row; return why the run has to stop, or None."""
        self._rows.append(row)
        share = sum(r["response/no_verdict"] for r in self._rows) / len(self._rows)
        if len(self._rows) < (self._rows.maxlen or 1) or share <= self._limit:
            return None
        return (
            f"step {row['step']}: {100 * share:.0f} % of the responses of {len(self._rows)} steps "
            f"had no verdict, above verifier.max_no_verdict={self._limit:g}; the commonest cause: "
            f"{commonest_cause(self._rows)}"
        )


def check_verdicts(trainer: Trainer, row: metrics.MetricsRow) -> None:
    """Raise NoVerdictError, after a checkpoint, where the verifiers have stopped answering.

    All ranks have the same rates and decide the same. A resumed run starts with a new budget, so
    that it goes on where the judge is back.
    """
    message = trainer.budget.observe(row)
    if message is not None:
        path = trainer.checkpoints / trainer.state.name
        if not path.exists():
            trainer.save()
        raise NoVerdictError(
            f"{message}. Checkpoint {path}; mend it and continue with --resume "
            f"run.dir={trainer.run.dir}"
        )


def take_results(trainer: Trainer, step: Step) -> dict[str, float]:
    """Take a finished step's results into the difficulty pools; return fields of its row.

    To be called before another batch is started: its draws depend on the pools, and the seconds of
    rendering are the sampler's. Collective with pools.
    """
    assert step.batch is not None, "a step without rollouts"
    row = {f"seconds/{name}": value for name, value in trainer.sampler.prompts.laps().items()}
    if trainer.sampler.pools.on:
        counts = distributed.all_gather(step.batch.pass_counts)
        row |= trainer.sampler.pools.record(step.number, counts)
    return row


def record_step(trainer: Trainer, step: Step, results: dict[str, float]) -> metrics.MetricsRow:
    """Write a finished step's metrics row and rollouts, update the display, run the checks.

    `results` are those of `take_results`. Returns the row. Raises ParityError, WeightsError and
    CollapseError.
    """
    config, state = trainer.config, trainer.state
    assert step.batch is not None, "a step without rollouts"
    groups = step.batch.groups
    totals = sum_by_name(distributed.all_gather([state.totals]))
    stats = [_sum_losses(values, config) for values in state.stats]
    row: dict[str, Any] = {"phase": "train", "step": state.step, "lr": step.lr}
    row |= telemetry.group_rates(totals) | term_rates(totals)
    mismatch = mismatch_of(groups) if config.algorithm.staleness == "recompute" else {}
    row |= mismatch | telemetry.averaged(stats)
    if config.rollout.ahead:
        sums = staleness.age_sums(groups, step.number, compared=bool(mismatch))
        row |= staleness.by_age(distributed.all_gather([sums]))
    if trainer.receipt is not None:
        row |= trainer.receipt.row()
    row |= results
    row["mini_batches"] = telemetry.by_mini_batch(stats)
    row |= {f"seconds/{name}": value for name, value in step.timer.seconds.items()}
    if "sampling" in step.timer.seconds:
        row["tokens_per_s/generate"] = totals["tokens"] / step.timer.seconds["sampling"]
    if is_written(config, state.step):
        suffix = f"-rank{distributed.rank()}" if distributed.world_size() > 1 else ""
        name = f"step_{state.step:06d}{suffix}.parquet"
        write_parquet(trainer.run.dir / "rollouts" / name, groups)
    if trainer.writer is not None:
        trainer.writer.write(row)
    _show(trainer, row)
    if step.batch.age(step.number) == 0:
        check_parity(trainer, mismatch, state.step)
    detect_collapse(trainer, step, row)
    return row


def _show(trainer: Trainer, row: metrics.MetricsRow) -> None:
    """Update the display; print a cause of missing verdicts the first time that it occurs."""
    if trainer.display is None:
        return
    for cause, count in (row.get("no_verdict") or {}).items():
        if cause not in trainer.causes:
            trainer.causes.add(cause)
            trainer.display.log(
                f"step {row['step']}: no verdict on {count} responses: {printable(cause)}"
            )
    shown = {
        "reward": "reward/mean",
        "accuracy": "accuracy",
        "gate": "gate/mean",
        "kl": "mismatch/kl",
        "tokens/s": "tokens_per_s/generate",
    }
    if row["response/no_verdict"]:
        shown["no verdict"] = "response/no_verdict"
    trainer.display.update(row["step"], {name: row.get(key, "-") for name, key in shown.items()})


def _sum_losses(stats: dict[str, float], config: Config) -> dict[str, float]:
    """Return a mini-batch's statistics with loss, surrogate and KL penalty summed over ranks."""
    names = ["loss", "surrogate", *(["kl/penalty"] if config.algorithm.kl_coef else [])]
    shares = {name: stats.get(name, 0.0) for name in names}
    return stats | distributed.all_reduce_sum(shares)


def detect_collapse(trainer: Trainer, step: Step, row: dict[str, Any]) -> None:
    """Run the collapse detector on a step's metrics; on an alarm, pin the last good checkpoint.

    Alarms are appended to RUN/collapse.json, and an autopsy of the step is written. Rank 0 decides.
    Raises CollapseError if collapse.action is stop.
    """
    action = trainer.config.collapse.action
    if action == "ignore":
        return
    alarms = trainer.detector.observe(row) if distributed.rank() == 0 else []
    path = trainer.run.dir / "collapse.json"
    for alarm in alarms:
        pinned = checkpoint.pin_last_before(trainer.checkpoints, alarm.since)
        good = f"checkpoint {pinned} is kept" if pinned else "there is no checkpoint before it"
        distributed.print0(f"collapse: {alarm.message}; {good}")
        entry = {**asdict(alarm), "checkpoint": pinned and pinned.name, "row": row}
        write_json(path, [*(read_json(path) or []), entry])
    if not distributed.broadcast(len(alarms)):
        return
    autopsy.at_alarm(trainer, step, "; ".join(alarm.message for alarm in alarms))
    if action == "stop":
        raise CollapseError(
            f"step {row['step']}: stopped by the collapse detector, see {path} "
            "(collapse.action=stop)"
        )
