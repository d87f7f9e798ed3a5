"""SAPO training: the loop.

    sapo-vl train [--config FILE] [--resume] [key=value ...]

`sapo` is the algorithm box: sample with mu, grade, group advantages, old log-probs, mini-batches
through the gate, weights back to the sampler. Its parts are built in job.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NoReturn, TypeVar

import torch

from sapo_vl import checkpoint, distributed, rollouts, sft, stages, telemetry
from sapo_vl.config import Config, LearnerConfig
from sapo_vl.job import Clock, Job, check_finite, check_parity, preflight, record, recording, report
from sapo_vl.learner.engine import Objective, RowTensors, mean_of_means
from sapo_vl.logprobs import ResponseLogprobs
from sapo_vl.progress import Progress as Display
from sapo_vl.run import Interrupted, Run
from sapo_vl.sapo import Surrogate, mismatch_weight, sapo_loss
from sapo_vl.schema import RolloutGroup

Result = TypeVar("Result")


def main(config: Config, *, resume: bool) -> None:
    """Run the main job or continue it. Raises UserError, or Interrupted after a checkpoint."""
    distributed.start()
    torch.manual_seed(config.run.seed)
    preflight(config)
    run = Run(config, resume=resume)
    run.stop.install()
    with recording(run, resume=resume) as writer:
        job = Job(run, writer)
        with closing(job.rubric):
            done = job.restore()
            with run.phase("sapo"):
                sapo(job, done)
            report(job)


def warm_up_only(config: Config, *, resume: bool) -> None:
    """Do the supervised warm-up alone: `sapo-vl sft`. Raises as `main` does."""
    distributed.start()
    torch.manual_seed(config.run.seed)
    preflight(config)
    run = Run(config, resume=resume)
    run.stop.install()
    with recording(run, resume=resume) as writer:
        folder = sft.warm_up(run, stages.policy_folder(run), writer)
    distributed.say(f"the warmed-up model is in {folder.path}")


def sapo(job: Job, done: checkpoint.Progress) -> None:
    """Train: the paper's algorithm, one rollout batch after the other."""
    run, config, learner = job.run, job.config, job.learner
    steps, count = config.rollout.steps, config.sapo.mini_batches
    objective = sapo_objective(config)
    with Display(None if distributed.rank() == 0 else False, steps, "SAPO") as display:
        while done.step < steps:
            clock = Clock()
            if done.buffer is not None:  # a signal ended the last start between two mini-batches
                batches, groups = rollouts.unpack(done.buffer, job.renderer)
                statistics = done.extra["statistics"]
                job.generator.sleep()
            else:
                groups = or_leave(job, done, lambda: roll_out(job, done))
                clock.lap("rollout")
                batches = rollouts.mini_batches(groups, count)
                job.generator.sleep()
                probe(job, groups, done.step)
                for rows in batches[1:]:  # the first mini-batch's are those of its own forward
                    learner.fill_old_logprobs(rows)
                clock.lap("old_logprobs")
                statistics = []
            lr = learning_rate(done.step, steps, config.learner)
            while done.mini_batch < count:
                rows = batches[done.mini_batch]
                step_report = learner.update(rows, objective, mean_of_means, lr)
                statistics.append(
                    telemetry.minibatch(step_report, config.sapo.tau_pos, config.sapo.tau_neg)
                )
                done.bad_steps = check_finite(run, step_report, done.bad_steps)
                done.mini_batch += 1
                if done.mini_batch < count and run.stop.requested():
                    done.buffer = rollouts.pack(batches, groups)
                    done.extra = {"statistics": statistics}
                    leave(job, done)
            clock.lap("update")
            job.generator.update_weights(learner.weights())
            clock.lap("sync")
            rollouts.keep_old_logprobs(groups, batches)
            done.step, done.mini_batch, done.buffer, done.extra = done.step + 1, 0, None, {}
            done.cursor += config.rollout.prompts
            record(job, display, done.step, groups, statistics, clock, lr)
            stop = run.stop.requested()
            if stop:
                leave(job, done)
            if done.step % config.checkpoint.every == 0 or done.step == steps:
                checkpoint.save(job.checkpoints, learner, done, config.checkpoint.keep)
            every = config.evaluation.every
            if every and done.step % every == 0 and done.step < steps:
                name = f"step_{done.step:06d}"
                or_leave(job, done, lambda: job.evaluate(name, done.step))  # noqa: B023


def roll_out(job: Job, done: checkpoint.Progress) -> list[RolloutGroup]:
    """Draw this rank's share of the step's prompts and sample, grade and compare its groups."""
    config, run = job.config, job.run
    chosen = stages.draw(len(job.train_set), config.run.seed, done.cursor, config.rollout.prompts)
    own = [job.train_set[i] for i in chosen[distributed.rank() :: distributed.world_size()]]
    run.heartbeat([sample.id for sample in own])
    with run.stop.at_once():
        return rollouts.collect(job.generator, job.renderer, job.rubric, own, config, done.step)


def probe(job: Job, groups: Sequence[RolloutGroup], step: int) -> None:
    """Compare sampler and learner on the first group before its weights are used for a step.

    A stale encoder cache or a wrong prompt shows here, also where all groups are dropped.
    """
    rows = rollouts.group_rows(groups[0], all_rows=True)
    job.learner.fill_old_logprobs(rows)
    rollouts.keep_old_logprobs(groups[:1], [rows])
    check_parity(job.config, telemetry.mismatch(groups[:1]), step + 1)


def sapo_objective(config: Config) -> Objective:
    """Return the SAPO loss with the configured temperatures and mismatch correction."""
    options = config.sapo

    def objective(out: ResponseLogprobs, tensors: RowTensors) -> Surrogate:
        old = tensors.old_logprobs_T
        old = out.logprobs_N.detach() if old is None else old
        weights = tensors.weights_T
        if options.mismatch_cap is not None:
            assert tensors.generator_logprobs_T is not None
            weights = weights * mismatch_weight(
                old, tensors.generator_logprobs_T, options.mismatch_cap
            )
        return sapo_loss(
            out.logprobs_N,
            old,
            tensors.advantages_T,
            weights,
            tau_pos=options.tau_pos,
            tau_neg=options.tau_neg,
        )

    return objective


def learning_rate(step: int, steps: int, options: LearnerConfig) -> float:
    """Return a rollout step's rate: linear rise, then linear decay to `final_lr` of the peak."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    share = (step - options.warmup_steps) / max(1, steps - options.warmup_steps)
    return options.lr * (1 - (1 - options.final_lr) * share)


def or_leave(job: Job, done: checkpoint.Progress, work: Callable[[], Result]) -> Result:
    """Return what `work` returns; when a signal ends it, write a checkpoint of `done` and leave."""
    try:
        return work()
    except Interrupted:
        leave(job, done)


def leave(job: Job, done: checkpoint.Progress) -> NoReturn:
    """Write a checkpoint, unless there is one of this very place, and raise Interrupted."""
    path = job.checkpoints / done.name
    if not path.exists():
        checkpoint.save(job.checkpoints, job.learner, done, job.config.checkpoint.keep)
    distributed.say(f"checkpoint {path}; continue with --resume run.dir={job.run.dir}")
    raise job.run.stop.error()
