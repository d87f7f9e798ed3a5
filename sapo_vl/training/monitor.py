"""Monitoring of a run: metrics, sampler-learner parity, weights, missing verdicts, collapse."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sapo_vl.algorithm import staleness, telemetry
from sapo_vl.algorithm.reward_terms import commonest_cause, sum_by_name, term_rates
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import Config, dump
from sapo_vl.errors import RunError, printable
from sapo_vl.runs import metrics
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.schema import RolloutGroup
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint
from sapo_vl.training.rollouts import write_parquet

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Step, Trainer


BUDGET_STEPS = 3
"""Steps over which the share of responses without a verdict is taken."""

LARGEST_WEIGHT = 1e6
"""No model that works has a weight near it; beyond it a forward pass soon overflows."""


class ParityError(RunError):
    """Sampler and learner disagree about the log-probs of the sampled tokens."""


class NonFiniteGradientError(RunError):
    """The gradient was not finite for learner.max_bad_steps optimizer steps in a row."""


class NoVerdictError(RunError):
    """More responses had no verdict than verifier.max_no_verdict allows."""


class WeightsError(RunError):
    """The weights are not finite, or beyond what any model has."""


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
    """Whether this is the row of an evaluation whose summary file, written next, is missing.

    An evaluation that was made again later has left its file beside the new one (report.py).
    """
    if row.get("phase") != "eval":
        return False
    name, folder = row.get("name"), run.dir / "eval"
    files = [folder / f"{name}.json", *folder.glob(f"{name}-step_*.json")]
    return not any((read_json(file) or {}).get("step") == row.get("step") for file in files)


def _covered_steps(run: Run) -> dict[str, int]:
    """Return the last step of each phase that a checkpoint holds."""

    def last_step(root: Path) -> int:
        newest = checkpoint.latest(root)
        return int(newest.name.removeprefix("step_").split("+")[0]) if newest else 0

    warmup = run.dir / "warmup"
    sft = run.config.sft.steps if (warmup / "final").exists() else last_step(warmup / "checkpoints")
    train = last_step(run.dir / "checkpoints")
    return {"sft": sft, "train": train, "eval": train}


def check_finite(run: Run, report: UpdateReport, bad_steps: int) -> int:
    """Return the new count of non-finite updates in a row; if this is one, write its record ids.

    Raises NonFiniteGradientError at learner.max_bad_steps.
    """
    if not report.skipped:
        return 0
    ids = sorted({rollout.prompt.sample.id for rollout in report.rollouts})
    path = run.dir / f"bad_batch_rank_{distributed.rank()}.json"
    write_json(path, ids)
    distributed.print0(f"gradient not finite: step skipped, its records are in {path}")
    if bad_steps + 1 >= run.config.learner.max_bad_steps:
        raise NonFiniteGradientError(
            f"{bad_steps + 1} optimizer steps in a row had no finite gradient, see {path}"
        )
    return bad_steps + 1


class ParityLimits(NamedTuple):
    """Limits on the mean of |log mu - log pi_old| over tokens, in nats."""

    warn: Mapping[str, float]  # by kind of prompt
    stop: float
    stop_token: float  # limit on the largest difference of one token


PARITY_LIMITS = {
    # The same function computed twice: rounding alone gives 1e-7 to 1e-6 here.
    "float32": ParityLimits({"text": 1e-5, "image": 1e-5}, 1e-3, 0.1),
    # Engines round differently: verl issue 2996 has means of 0.055 on text and 0.30 with pictures
    # on equal tokens, and experts that are chosen differently add to it. A warning is at nearly
    # twice that, the stop at three times the larger one: other weights or inputs cost whole nats.
    # One token of low probability may differ by any amount.
    "bfloat16": ParityLimits({"text": 0.1, "image": 0.5}, 1.0, math.inf),
}
"""By model.dtype, where sampler and learner share it; generator.parity_warn and parity_stop replace
the means."""

MIXED_LIMITS = ParityLimits({"text": 0.03, "image": 0.03}, 0.3, math.inf)
"""For a bfloat16 sampler of weights that the learner holds in float32, as Qwen3.5's on a CPU.

Only one side rounds. Means of the tiny Qwen3.5 and its MoE: 0.006 to 0.012 with random weights,
0.0005 to 0.01 in training; single tokens up to 0.4. Random weights after a change of 0.02 each
that the sampler didn't get: 0.75 to 0.94. An update of 0.001 nats is lost in the rounding.
"""

TOKEN_FACTOR = 100
"""Under float32 one token may differ by this multiple of the limit on the mean."""

KINDS = {"text": "text-only prompts", "image": "prompts with pictures"}


def parity_limits(config: Config, sampler_dtype: str | None = None) -> ParityLimits:
    """Return the limits of a run; the sampler's type is model.dtype unless it is named."""
    limits, options = PARITY_LIMITS[config.model.dtype], config.generator
    if sampler_dtype not in (None, config.model.dtype):
        limits = MIXED_LIMITS
    if options.parity_warn is not None:
        limits = limits._replace(warn=dict.fromkeys(KINDS, options.parity_warn))
    if options.parity_stop is not None:
        limits = limits._replace(stop=options.parity_stop)
        if math.isfinite(limits.stop_token):
            limits = limits._replace(stop_token=TOKEN_FACTOR * options.parity_stop)
    return limits


class ParityCheck:
    """Compares log mu with log pi_old: warns once per kind of prompt, stops far above that."""

    def __init__(self, config: Config, sampler_dtype: str | None = None) -> None:
        """Take the limits of the run; see parity_limits."""
        self._config = config
        self._limits = parity_limits(config, sampler_dtype)
        self._warned = set[str]()

    def observe(self, mismatch: Mapping[str, float], step: int, model: Any = None) -> list[str]:
        """Return what to warn of; `mismatch` is telemetry.mismatch's, over all ranks.

        Raises ParityError above a stopping limit, and WeightsError where the weights of `model`,
        the learner's module, are the cause of a difference that is worth a warning.
        """
        limits = self._limits
        warnings = []
        for kind, words in KINDS.items():
            mean = mismatch.get(f"mismatch/mean_abs_{kind}", 0.0)
            largest = mismatch.get(f"mismatch/max_abs_{kind}", 0.0)
            stops = not (mean <= limits.stop and largest <= limits.stop_token)
            if not stops and mean <= limits.warn[kind]:
                continue
            weight = check_weights(self._config, model, step)
            found = (
                f"step {step}: log-probs of sampler and learner differ by {mean:.3g} nats on "
                f"average on {words}, at most {largest:.3g} ({_other_kind(mismatch, kind)})"
            )
            if stops:
                raise ParityError(
                    f"{found}, above generator.parity_stop={limits.stop:g}"
                    f"{_token_limit(limits)}: they have different weights or inputs (the largest "
                    f"weight is {weight:.3g}, learner.lr={self._config.learner.lr:g})"
                )
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.append(
                    f"warning: {found}, above generator.parity_warn={limits.warn[kind]:g}; see "
                    f"mismatch/mean_abs_{kind} in metrics.jsonl and algorithm.importance_cap"
                )
        return warnings


def _other_kind(mismatch: Mapping[str, float], kind: str) -> str:
    (other,) = KINDS.keys() - {kind}
    mean = mismatch.get(f"mismatch/mean_abs_{other}")
    return f"none seen on {KINDS[other]}" if mean is None else f"{mean:.3g} on {KINDS[other]}"


def _token_limit(limits: ParityLimits) -> str:
    if not math.isfinite(limits.stop_token):
        return ""
    return f" ({limits.stop_token:g} on one token)"


def mismatch_of(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return telemetry.mismatch of the groups of all ranks. Collective."""
    return telemetry.mismatch(distributed.all_gather([telemetry.mismatch_sums(groups)]))


def check_parity(trainer: Trainer, mismatch: Mapping[str, float], step: int) -> None:
    """Print what the trainer's ParityCheck warns of. Raises as it does, on all ranks alike."""
    for line in trainer.parity.observe(mismatch, step, trainer.learner.model):
        trainer.log(line)


def check_weights(config: Config, model: Any, step: int) -> float:
    """Return the largest absolute weight of this rank; 0 without a `model`, the learner's module.

    Frozen weights don't change, and may be in host memory: they are left out. Under ZeRO-3 this
    rank's shards are looked at. Raises WeightsError where a weight is not finite or above
    LARGEST_WEIGHT.
    """
    overall = 0.0
    for name, parameter in model.named_parameters() if model is not None else ():
        if not parameter.requires_grad:
            continue
        values = getattr(parameter, "ds_tensor", parameter).detach()
        largest = float(torch.linalg.vector_norm(values, float("inf"))) if values.numel() else 0.0
        if not largest <= LARGEST_WEIGHT:
            raise WeightsError(
                f"step {step}: {name} has a weight of {largest:.3g} since the last update: "
                f"learner.lr={config.learner.lr:g} is too large for this model"
            )
        overall = max(overall, largest)
    return overall


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


def record_step(trainer: Trainer, step: Step) -> metrics.MetricsRow:
    """Write a finished step's metrics row and rollouts, update the display, run the checks.

    Returns the row. Raises ParityError, WeightsError and CollapseError.
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
    row["mini_batches"] = telemetry.by_mini_batch(stats)
    seconds = step.timer.seconds | trainer.sampler.prompts.laps()
    row |= {f"seconds/{name}": value for name, value in seconds.items()}
    if "sampling" in step.timer.seconds:
        row["tokens_per_s/generate"] = totals["tokens"] / step.timer.seconds["sampling"]
    every = config.run.rollouts_every
    if every and state.step % every == 0:
        suffix = f"-rank{distributed.rank()}" if distributed.world_size() > 1 else ""
        name = f"step_{state.step:06d}{suffix}.parquet"
        write_parquet(trainer.run.dir / "rollouts" / name, groups)
    if trainer.writer is not None:
        trainer.writer.write(row)
    _show(trainer, row)
    if step.batch.age(step.number) == 0:
        check_parity(trainer, mismatch, state.step)
    detect_collapse(trainer, row)
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


def detect_collapse(trainer: Trainer, row: dict[str, Any]) -> None:
    """Run the collapse detector on a step's metrics; on an alarm, pin the last good checkpoint.

    Alarms are appended to RUN/collapse.json. Rank 0 decides. Raises CollapseError if
    collapse.action is stop.
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
    if distributed.broadcast(len(alarms)) and action == "stop":
        raise CollapseError(
            f"step {row['step']}: stopped by the collapse detector, see {path} "
            "(collapse.action=stop)"
        )
