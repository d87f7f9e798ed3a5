"""The trainer: a run's learner, generator and state, and everything around a training step.

`train_step` in train.py is the algorithm. This module adds resuming in the middle of a step,
signals, metrics, parity and collapse checks, checkpoints and evaluation. Constructing a Trainer
loads weights and starts the engine; it trains nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapo_vl.algorithm import collapse, objectives, staleness, telemetry
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config.sections import LearnerConfig
from sapo_vl.evaluation.benchmark import in_training
from sapo_vl.evaluation.heldout import Accuracy, EvalSpec, evaluate, evaluation_settings
from sapo_vl.generator.base import Generator, build, engine_ranks, sampler_dtype
from sapo_vl.generator.sampling import SampleEngine
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import ModelAssets
from sapo_vl.model.weights import trainable_rows
from sapo_vl.runs import metrics, warning_log
from sapo_vl.runs.files import write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.runs.progress import ProgressDisplay, table
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.schema import Rollout
from sapo_vl.system import distributed
from sapo_vl.training import autopsy, checkpoint, monitor, parity
from sapo_vl.training.best import BestCheckpoint
from sapo_vl.training.checkpoint import TrainState
from sapo_vl.training.inputs import REFERENCE, check_inputs
from sapo_vl.training.receipt import DeliveryCheck, Receipt, probe_prompts
from sapo_vl.training.rollout_queue import RolloutQueue
from sapo_vl.training.rollouts import RolloutBatch, is_written
from sapo_vl.training.setup import RunInputs, sapo_config
from sapo_vl.training.step_sampler import SampledStep, StepSampler


class Trainer:
    """A training run: its learner, generator, state and checkpoints."""

    def __init__(
        self,
        run: Run,
        inputs: RunInputs,
        assets: ModelAssets,
        writer: MetricsWriter | None,
        generator: Generator | None = None,
    ) -> None:
        """Load the weights of `assets` and start the generator, unless a running one is passed.

        `writer` is None on every rank but 0. Raises UserError if something can't be loaded.
        """
        self.run, self.config, self.inputs, self.writer = run, run.config, inputs, writer
        self.assets = assets
        self.objective = objectives.build(self.config)
        with run.phase("start"):
            started = sapo_config(self.config)
            self.learner = Learner(started, assets)
            if self.config.algorithm.kl_coef:
                digest = self.learner.keep_reference()  # before a checkpoint replaces the weights
                check_inputs(run.dir, {REFERENCE: digest}, resume=True)
            rows = trainable_rows(self.learner.model)
            if distributed.rank() == 0:
                table(
                    "trainable parameters",
                    ["component", "parameters", "trained"],
                    [[name, f"{total:,}", f"{trained:,}"] for name, total, trained in rows],
                )
            if self.config.model.lora.rank:
                options = started.model.lora
                distributed.print0(
                    f"model.lora: adapters of rank {options.rank}, counted {options.scale:g} "
                    f"times, {f'from {options.path}' if options.path else 'new'}; the base is "
                    f"frozen; learner.lr={self.config.learner.lr:g}"
                )
            seed = self.config.run.seed
            self.learner.sleep()
            self.generator = generator or build(self.config, assets, seed=seed, adapter=True)
        self.engine = SampleEngine(
            self.generator,
            inputs.renderer,
            inputs.rubric,
            tensor_parallel=engine_ranks(self.config),
        )
        self.sampler = StepSampler(run, inputs, self.engine, self.objective, self.warn)
        self.queue = RolloutQueue(
            self.config,
            self.sampler,
            remote=getattr(self.generator, "remote", False),
            guard=run.stop.interruptible,
        )
        if self.config.rollout.ahead and not self.queue.overlaps:
            distributed.print0(
                f"rollout.ahead={self.config.rollout.ahead}: this generator shares the learner's "
                "devices, so that batches are sampled ahead, but not while the learner trains"
            )
        if self.config.rollout.in_flight:
            distributed.print0("rollout.in_flight=true: this run can't be reproduced")
        self.checkpoints = run.dir / "checkpoints"
        self.detector = collapse.Detector(self.config.collapse, gated=self.objective.is_gated)
        self.detector.replay(metrics.read(run.dir))
        self.budget = monitor.VerdictBudget(
            self.config.verifier.max_no_verdict, self.config.rollout.steps
        )
        dtype = sampler_dtype(self.config, assets)
        self.parity = parity.ParityCheck(self.config, dtype)
        probe = probe_prompts(inputs.train_set, inputs.renderer)
        self.delivery = DeliveryCheck(self.config, probe, dtype)
        self.receipt: Receipt | None = None
        self.version = 0  # of the generator's weights: the training steps that they have seen
        self.causes = set[str]()  # of missing verdicts, that have been printed
        self.best = BestCheckpoint(self.config, self.checkpoints, self.log)
        self.state = TrainState()
        self.display: ProgressDisplay | None = None
        self.open_step: Step | None = None  # while it is in progress, for the watchdog
        autopsy.watch(run, self)

    def restore(self) -> None:
        """Load the newest checkpoint, if any, sync weights, and evaluate a new run's policy."""
        newest = checkpoint.latest(self.checkpoints)
        if newest is not None:
            self._make_room()
            self.state = checkpoint.load(newest, self.learner)
            self.queue.load_state_dict(self.state.ahead, self.inputs.renderer)
            self.sampler.pools.load_state_dict(self.state.pools)
            self.state.ahead = []
        self.sync()
        if newest is not None:
            total = self.config.rollout.steps
            distributed.print0(f"continuing at step {self.state.step} of {total}")
        if not (self.run.dir / "eval" / "before.json").exists():
            self.evaluate("before")
        elif self._evaluation_due() and self.state.mini_batch == 0:
            name = f"step_{self.state.step:06d}"
            if not (self.run.dir / "eval" / f"{name}.json").exists():
                self.evaluate(name)  # a signal or a kill cut it off
        self.best.update(self.state.step)

    def sync(self) -> None:
        """Give the generator the learner's weights, and the GPU's memory with them.

        What is being sampled is finished first, by the weights that it was begun with, unless
        rollout.in_flight is on.
        Raises DeliveryError when the generator answers a probe as if it had other weights.
        """
        self.learner.sleep()
        self.queue.wait_before_sync()
        version = self.state.step + (self.state.mini_batch > 0)
        if self.config.model.lora.rank:
            self.generator.update_adapter(self.learner.adapter(), version)
        else:
            self.generator.update_weights(self.learner.weights(), version)
        self.version = version
        self.receipt = self.delivery.ask(self.generator, self.learner, version) or self.receipt

    def settle_receipt(self) -> None:
        """Compare the sampler's answer to the last probe, if the learner's weights were away then.

        The sampler is put to sleep for it. Raises DeliveryError as `sync` does.
        """
        if self.delivery.pending:
            self._make_room()
            self.receipt = self.delivery.settle(self.learner)

    def _make_room(self) -> None:
        """Put the generator to sleep if the learner's state needs its memory; `sync` wakes it."""
        if self.config.learner.offload_while_sampling:
            self.generator.sleep()

    def save(self) -> Path:
        """Write a checkpoint of the exact position; return its path.

        It holds the batches that wait, but for those of its own weights (see RolloutQueue).
        """
        state = self.state
        self._make_room()
        unchanged = state.mini_batch == 0  # since the sampler got the weights
        state.ahead = self.queue.state_dict(
            state.step + (state.mini_batch > 0), self.version if unchanged else None
        )
        state.pools = self.sampler.pools.state_dict()
        path = checkpoint.save(self.checkpoints, self.learner, state, self.config.checkpoint.keep)
        state.ahead = []
        self.settle_receipt()
        return path

    def _evaluation_due(self) -> bool:
        """Whether the steps taken so far end with an evaluation; the last step's is `after`."""
        every, step = self.config.evaluation.every, self.state.step
        return bool(every) and 0 < step < self.config.rollout.steps and step % every == 0

    @contextmanager
    def step(self) -> Iterator[Step]:
        """Open the next training step; on exit, record it, checkpoint and evaluate.

        A signal during the step leads to a checkpoint of the exact position, after which
        RunInterrupted is re-raised.
        """
        self.open_step = step = Step(self)
        with self._checkpoint_on_interrupt(), autopsy.on_error(self, step):
            yield step
        state, config = self.state, self.config
        self.queue.release(state.step)
        state.step, state.mini_batch, state.batch = state.step + 1, 0, None
        state.cursor += config.rollout.prompts
        assert step.batch is not None, "a step without rollouts"
        stopping = self.run.stop.requested()
        with autopsy.on_error(self, step):
            results = monitor.take_results(self, step)  # on which later draws depend
            if self.queue.overlaps and state.step < config.rollout.steps and not stopping:
                self.queue.start(state.step, state.cursor, self.version)
            row = monitor.record_step(self, step, results)
        self.open_step = None
        state.totals, state.stats = {}, []
        monitor.check_verdicts(self, row)
        with self._checkpoint_on_interrupt():
            if stopping:
                raise self.run.stop.error()
            last = state.step == config.rollout.steps
            wanted = config.checkpoint.best is not None and self._evaluation_due()
            if state.step % config.checkpoint.every == 0 or last or wanted:
                self.save()
                if config.learner.offload_while_sampling:
                    self.sync()
            if self._evaluation_due():
                self.evaluate(f"step_{state.step:06d}")

    @contextmanager
    def _checkpoint_on_interrupt(self) -> Iterator[None]:
        try:
            yield
        except RunInterrupted:
            path = self.checkpoints / self.state.name
            if not path.exists():
                self.save()
            distributed.print0(f"checkpoint {path}; continue with --resume run.dir={self.run.dir}")
            raise

    def next_rollouts(self) -> SampledStep:
        """Return this rank's rollouts of the step, and have those of a later one sampled."""
        state = self.state
        return self.queue.take(state.step, state.cursor, self.version)

    def log(self, line: str) -> None:
        """Print a line on rank 0, above the progress display."""
        if self.display is not None:
            self.display.log(line)
        else:
            distributed.print0(line)

    def warn(self, step: int, line: str) -> None:
        """Print a line as `log` does, and keep it for the run's report."""
        self.log(line)
        warning_log.record(self.run.dir, step, line)

    def fill_old_logprobs(self, batch: RolloutBatch) -> None:
        """Set pi_old of every mini-batch but the first, whose own forward is on policy.

        The first group is compared with the sampler before any training, which exposes a stale
        encoder cache or a wrong prompt even if no group has a gradient; not so rollouts of older
        weights. With algorithm.staleness=gate the sampler's log-probs take pi_old's place.
        """
        probe = batch.groups[0]
        if batch.age(self.state.step) == 0:
            self.learner.fill_old_logprobs(probe.rollouts)
            parity.check_parity(self, parity.mismatch_of([probe]), self.state.step + 1)
        if self.config.algorithm.staleness == "gate":
            for group in batch.groups:
                for rollout in group.rollouts:
                    rollout.old_logprobs = rollout.generator_logprobs
            return
        first, *later = batch.mini_batches()
        for rollout in first:
            rollout.old_logprobs = None
        for mini_batch in later:
            self.learner.fill_old_logprobs(mini_batch)

    def fill_reference_logprobs(self, batch: RolloutBatch) -> None:
        """Set the reference's log-probs of all rollouts that are trained on, in one pass.

        A batch from a checkpoint has them, unless algorithm.kl_coef was 0 then.
        """
        mini_batches = batch.mini_batches()
        trained = [rollout for mini_batch in mini_batches for rollout in mini_batch]
        missing = any(r.reference_logprobs is None for r in trained if not r.is_filler)
        if any(distributed.all_gather([missing])):
            self.learner.fill_reference_logprobs(mini_batches)

    def check_weights(self) -> None:
        """Raise WeightsError when the step's updates have ruined the weights."""
        parity.check_weights(self.config, self.learner.model, self.state.step + 1)

    def evaluate(self, name: str) -> Accuracy:
        """Evaluate the current policy on the held-out problems and record it as `name`."""
        config = self.config
        self.queue.wait()
        with self.run.phase("evaluation"), self.run.stop.interruptible():
            out = self.run.dir / "eval" / f"{name}.jsonl"
            result = evaluate(self.engine, self.inputs.test_set, EvalSpec.of(config), out)
            scores = in_training(config, self.generator, self.assets, self.inputs.benchmarks)
        if self.delivery.pending:
            self.settle_receipt()  # before any figure is written
            self.sync()  # which wakes the sampler
        if self.writer is not None:
            self.writer.write(
                {
                    "phase": "eval",
                    "step": self.state.step,
                    "name": name,
                    "avg": result.avg,
                    "ci95_low": result.ci95[0] if result.ci95 else None,
                    "ci95_high": result.ci95[1] if result.ci95 else None,
                    "greedy": result.greedy,
                    "no_verdict": result.no_verdict,
                    **{f"benchmark/{key}": value for key, value in scores.items()},
                }
            )
            write_json(
                self.run.dir / "eval" / f"{name}.json", result.summary() | self.evaluation_stamp()
            )
        self.best.update(self.state.step)
        return result

    def evaluation_stamp(self) -> dict[str, Any]:
        """Return what an evaluation of the current policy is made from: the step and settings."""
        settings = evaluation_settings(self.config)
        return {"step": self.state.step, "settings": settings}


class Step:
    """One training step in progress: its rollouts, statistics and clock."""

    def __init__(self, trainer: Trainer) -> None:
        """Start a step, or continue the one in which the trainer's state was saved."""
        self._trainer, self._state = trainer, trainer.state
        config = trainer.config
        self.lr = learning_rate(self._state.step, config.rollout.steps, config.learner)
        self.number = self._state.step  # counted from 0
        self.timer = StepTimer()
        self.mini_batch: list[Rollout] | None = None  # in progress, and the last one after it
        self.position = 0  # of that mini-batch in the step
        self.batch: RolloutBatch | None = None
        if self._state.batch is not None:
            renderer = trainer.inputs.renderer
            self.batch = RolloutBatch.from_state_dict(self._state.batch, renderer)

    def remaining_mini_batches(self) -> Iterator[list[Rollout]]:
        """Yield the mini-batches that are left; each must be trained on before the next.

        Raises RunInterrupted between two of them when a signal has arrived; the trainer's state
        then holds the rollouts.
        """
        assert self.batch is not None, "no rollouts"
        state, stop = self._state, self._trainer.run.stop
        mini_batches = self.batch.mini_batches()
        while state.mini_batch < len(mini_batches):
            self.position = state.mini_batch
            self.mini_batch = mini_batches[self.position]
            yield self.mini_batch
            state.mini_batch += 1
            if state.mini_batch < len(mini_batches) and stop.requested():
                state.batch = self.batch.state_dict()
                raise stop.error()

    def add(self, report: UpdateReport) -> None:
        """Add an update's statistics. Raises NonFiniteGradientError after too many bad ones."""
        stats = telemetry.mini_batch_stats(report, self._trainer.objective.temperatures)
        if self._trainer.config.rollout.ahead:
            stats |= staleness.gate_by_age(report, self.number)
        self._state.stats.append(stats)
        if is_written(self._trainer.config, self.number + 1):
            telemetry.keep_token_values(report)
        self._state.bad_steps = monitor.check_finite(self._trainer, self, report)


class StepTimer:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def learning_rate(step: int, steps: int, options: LearnerConfig) -> float:
    """Return a step's learning rate: linear warm-up, then linear decay to lr * final_lr."""
    if step < options.lr_warmup_steps:
        return options.lr * (step + 1) / options.lr_warmup_steps
    share = (step - options.lr_warmup_steps) / max(1, steps - options.lr_warmup_steps)
    return options.lr * (1 - (1 - options.final_lr) * share)
