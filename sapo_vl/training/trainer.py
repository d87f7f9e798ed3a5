"""A training run's parts and what surrounds the loop: set-up, records, the final report.

The loop itself is in train.py.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sapo_vl import sft
from sapo_vl.algorithm import collapse, objectives, telemetry
from sapo_vl.config import Config
from sapo_vl.data import store
from sapo_vl.errors import ConfigError, SetupError, UserError
from sapo_vl.evaluation.benchmark import chosen_sets, in_training
from sapo_vl.evaluation.heldout import Accuracy, evaluate
from sapo_vl.generator import base as generators
from sapo_vl.generator.base import NO_VLLM, Generator
from sapo_vl.learner.engine import Learner, StepReport
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import trainable_rows
from sapo_vl.runs import metrics, plots
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.runs.progress import Progress as Display
from sapo_vl.runs.progress import table
from sapo_vl.schema import RolloutGroup
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint, rollouts
from sapo_vl.training import setup as stages
from sapo_vl.training.prompt_sampler import Draws


class ParityError(RuntimeError):
    """Sampler and learner disagree on log-probs of what was sampled."""


class NotFinite(RuntimeError):
    """The gradient was not finite for learner.max_bad_steps optimizer steps in a row."""


def preflight(config: Config) -> None:
    """Check all that can be checked without weights, before a run's folder exists.

    Raises ConfigError, DataError or SetupError.
    """
    ranks = distributed.world_size()
    for key, value in (
        ("rollout.prompts", config.rollout.prompts),
        ("sft.batch", config.sft.batch),
    ):
        if value < ranks:
            raise ConfigError(f"{key}={value} is below the number of ranks ({ranks})")
    if ranks % config.generator.tensor_parallel:
        raise ConfigError(
            f"generator.tensor_parallel={config.generator.tensor_parallel} does not divide the "
            f"number of ranks ({ranks}): set SAPO_RANKS, or a smaller one"
        )
    stages.rubric(config).close()
    if config.generator.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise SetupError(NO_VLLM)
    if config.data.path is not None:
        for split in (config.data.train_split, config.data.eval_split):
            store.load(config.data.path, split)
    if config.sft.steps > 0 and config.sft.data is not None:
        store.load(config.sft.data, config.data.train_split)
    if config.model.path != "tiny":
        open_assets(config.model.path)
    chosen_sets(config)


class Collapsed(UserError):
    """The collapse detector fired and collapse.action is stop."""


class Job:
    """The parts of a SAPO run, built once."""

    def __init__(
        self, run: Run, writer: MetricsWriter | None, generator: Generator | None = None
    ) -> None:
        """Warm up if asked, then load data, sampler and learner. Raises UserError for bad input.

        `generator` is a sampler that runs already, of the same model.
        """
        self.run, self.config, self.writer = run, run.config, writer
        config = run.config
        self.rubric = stages.rubric(config)
        assets = stages.policy_folder(run)
        self.assets = assets
        self.renderer = PromptRenderer(assets, config.data)
        self.benchmarks = chosen_sets(config)
        path = stages.data_folder(run, config.data.path)
        self.train_set = stages.usable(
            config, self.renderer, path, config.data.train_split, "data.path"
        )
        self.draws = Draws(config, self.train_set)
        held_out = stages.usable(config, self.renderer, path, config.data.eval_split, "data.path")
        self.test_set = held_out[: config.evaluation.problems]
        stages.check_gold(self.rubric, self.train_set, self.test_set)
        assets = sft.warm_up(run, assets, writer)
        with run.phase("start"):
            self.learner = Learner(config, assets)
            show_trainable(self.learner)
            self.generator = generator or generators.build(config, assets, seed=config.run.seed)
        self.checkpoints = run.dir / "checkpoints"
        gated = objectives.gated(config)
        self.detector = collapse.Detector(config.collapse, gated=gated)
        self.detector.replay(metrics.read(run.dir))

    def restore(self) -> checkpoint.Progress:
        """Load the newest checkpoint, if any, give its weights to the sampler, look at step 0."""
        found = checkpoint.latest(self.checkpoints)
        done = checkpoint.load(found, self.learner) if found else checkpoint.Progress()
        self.generator.update_weights(self.learner.weights())
        if found is not None:
            distributed.print0(f"continuing at step {done.step} of {self.config.rollout.steps}")
        if not (self.run.dir / "eval" / "before.json").exists():
            self.evaluate("before", 0)
        return done

    def evaluate(self, name: str, step: int) -> Accuracy:
        """Evaluate the sampler's weights on the held-out problems and record it as `name`."""
        config = self.config
        with self.run.phase("evaluation"), self.run.stop.at_once():
            result = evaluate(
                self.generator,
                self.renderer,
                self.rubric,
                self.test_set,
                n=config.evaluation.samples,
                temperature=1.0,
                max_new_tokens=config.rollout.max_new_tokens,
                greedy=config.evaluation.greedy,
                seed=config.run.seed,
                out=self.run.dir / "eval" / f"{name}.jsonl",
            )
            scores = in_training(config, self.generator, self.assets, self.benchmarks)
        if self.writer is not None:
            self.writer.write(
                {
                    "phase": "eval",
                    "step": step,
                    "name": name,
                    "avg": result.avg,
                    "ci95_low": result.ci95[0],
                    "ci95_high": result.ci95[1],
                    "greedy": result.greedy if result.greedy is not None else float("nan"),
                    **{f"benchmark/{key}": value for key, value in scores.items()},
                }
            )
            write_json(self.run.dir / "eval" / f"{name}.json", result.summary())
        return result


def check_finite(run: Run, step_report: StepReport, bad_steps: int) -> int:
    """Return the number of bad steps in a row; write the batch down when one is bad."""
    if not step_report.skipped:
        return 0
    ids = sorted({row.prompt.sample.id for row in step_report.rows})
    path = run.dir / f"bad_batch_rank_{distributed.rank()}.json"
    write_json(path, ids)
    distributed.print0(f"gradient not finite: step skipped, its records are in {path}")
    if bad_steps + 1 >= run.config.learner.max_bad_steps:
        raise NotFinite(f"{bad_steps + 1} optimizer steps in a row were not finite, see {path}")
    return bad_steps + 1


def show_trainable(learner: Learner) -> None:
    """Print which components are trained, on rank 0."""
    rows = trainable_rows(learner.model)
    if distributed.rank() == 0:
        table(
            "trainable parameters",
            ["component", "parameters", "trained"],
            [[name, f"{total:,}", f"{trained:,}"] for name, total, trained in rows],
        )


class Clock:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def record(
    job: Job,
    display: Display,
    step: int,
    groups: Sequence[RolloutGroup],
    sums: dict[str, float],
    statistics: Sequence[dict[str, float]],
    clock: Clock,
    lr: float,
) -> None:
    """Write the step's metrics row and rollouts, update the display, check the parity."""
    config = job.config
    sums = distributed.all_reduce_sum(sums)
    mismatch = telemetry.mismatch(groups)
    row: dict[str, Any] = {"phase": "train", "step": step, "lr": lr}
    row |= telemetry.group_rates(sums) | mismatch
    statistics = [share_loss(values) for values in statistics]
    row |= telemetry.averaged(statistics)
    row["mini_batches"] = telemetry.by_mini_batch(statistics)
    row |= {f"seconds/{name}": value for name, value in clock.seconds.items()}
    if "rollout" in clock.seconds:
        row["tokens_per_s/generate"] = sums["tokens"] / clock.seconds["rollout"]
    every = config.run.rollouts_every
    if every and step % every == 0:
        suffix = f"-rank{distributed.rank()}" if distributed.world_size() > 1 else ""
        rollouts.write(job.run.dir / "rollouts" / f"step_{step:06d}{suffix}.parquet", groups)
    if job.writer is not None:
        job.writer.write(row)
    shown = {
        "reward": "reward/mean",
        "accuracy": "accuracy",
        "gate": "gate/mean",
        "kl": "mismatch/kl",
        "tokens/s": "tokens_per_s/generate",
    }
    display.update(step, {name: row.get(key, "-") for name, key in shown.items()})
    check_parity(config, mismatch, step)
    look_for_collapse(job, row)


def look_for_collapse(job: Job, row: dict[str, Any]) -> None:
    """Show the step to the detector; at an alarm keep the last good checkpoint and write it down.

    Rank 0 decides. Raises Collapsed where collapse.action says so.
    """
    if job.config.collapse.action == "ignore":
        return
    alarms = job.detector.observe(row) if distributed.rank() == 0 else []
    path = job.run.dir / "collapse.json"
    for alarm in alarms:
        kept = checkpoint.keep_last_before(job.checkpoints, alarm.since)
        good = f"checkpoint {kept} is kept" if kept else "there is no checkpoint before it"
        distributed.print0(f"collapse: {alarm.message}; {good}")
        said = {**asdict(alarm), "checkpoint": kept and kept.name, "row": row}
        write_json(path, [*(read_json(path) or []), said])
    if distributed.broadcast(len(alarms)) and job.config.collapse.action == "stop":
        raise Collapsed(
            f"step {row['step']}: stopped by the collapse detector, see {path} "
            "(collapse.action=stop)"
        )


def share_loss(values: dict[str, float]) -> dict[str, float]:
    """Return a mini-batch's statistics with loss and surrogate summed over ranks."""
    own = {name: values.get(name, 0.0) for name in ("loss", "surrogate")}
    return values | distributed.all_reduce_sum(own)


def check_parity(config: Config, mismatch: dict[str, float], step: int) -> None:
    """Raise ParityError when the sampler's log-probs are not the learner's within the bounds."""
    limits = {"mean": config.generator.parity_mean, "max": config.generator.parity_max}
    for name, limit in limits.items():
        value = mismatch.get(f"mismatch/{name}_abs", 0.0)
        if not value <= limit:
            raise ParityError(
                f"step {step}: the {name} of |log mu - log pi_old| is {value:.3g}, above "
                f"generator.parity_{name}={limit:.3g}: sampler and learner differ in weights "
                "or inputs"
            )


@contextmanager
def recording(run: Run, *, resume: bool) -> Iterator[MetricsWriter | None]:
    """Open the metrics on rank 0; on resume drop rows that the checkpoints do not cover."""
    if distributed.rank() != 0:
        yield None
        return
    if resume:
        metrics.truncate(run.dir, _covered(run))
        metrics.drop(run.dir, lambda row: _without_summary(run, row))
    options = run.config.run
    writer = MetricsWriter(
        run.dir,
        tensorboard=options.tensorboard,
        wandb=options.wandb,
        wandb_project=options.wandb_project,
        config=run.config.model_dump(mode="json"),
    )
    try:
        yield writer
    finally:
        writer.close()


def _without_summary(run: Run, row: metrics.Row) -> bool:
    """Return whether an evaluation's row was written and its file, the next, was not."""
    name = row.get("name")
    return row.get("phase") == "eval" and not (run.dir / "eval" / f"{name}.json").exists()


def _covered(run: Run) -> dict[str, int]:
    """Return the last step of each phase that a checkpoint holds."""

    def newest(root: Any) -> int:
        found = checkpoint.latest(root)
        return int(found.name.removeprefix("step_").split("+")[0]) if found else 0

    warm = run.config.sft.steps if (run.dir / "warmup" / "final").exists() else None
    train = newest(run.dir / "checkpoints")
    return {
        "sft": newest(run.dir / "warmup" / "checkpoints") if warm is None else warm,
        "train": train,
        "eval": train,
    }


def report(job: Job) -> None:
    """Evaluate the result, export it to RUN/final, and write and print the summary."""
    run, final = job.run, job.run.dir / "final"
    if read_json(run.dir / "eval" / "after.json") is None:
        job.evaluate("after", job.config.rollout.steps)
    distributed.barrier()
    if not final.exists():
        job.learner.export(run.dir / "final.partial")
        if distributed.rank() == 0:
            (run.dir / "final.partial").rename(final)
    if distributed.rank() != 0:
        return
    before, after = (read_json(run.dir / "eval" / f"{name}.json") for name in ("before", "after"))
    seconds = {name: round(value, 1) for name, value in run.seconds().items()}
    summary = {"before": before, "after": after, "seconds": seconds}
    write_json(run.dir / "summary.json", summary)
    plots.curves(run.dir)
    rows = [_figures(name, summary[name]) for name in ("before", "after")]
    n = job.config.evaluation.samples
    columns = ["held-out accuracy", f"avg@{n}", "95 % interval", "greedy"]
    table(f"{after['problems']} held-out problems", columns, rows)
    note = telemetry.explain_gate(
        [r for r in metrics.read(run.dir) if r.get("phase") == "train"],
        job.config.sapo.mini_batches,
        job.config.objective if objectives.gated(job.config) else "",
    )
    distributed.print0(note or f"seconds: {json.dumps(seconds)}")
    distributed.print0(f"the trained model is in {final}, the curves in {run.dir / 'curves.png'}")


def _figures(name: str, values: dict[str, Any]) -> list[str]:
    average = next(v for k, v in values.items() if k.startswith("avg@"))
    low, high = values["ci95"]
    greedy = "-" if values["greedy"] is None else f"{100 * values['greedy']:.1f} %"
    return [name, f"{100 * average:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", greedy]
