"""SAPO training: the loop.

    sapo-vl train [--config FILE] [--resume] [key=value ...]

`sapo` is the algorithm box: sample with mu, grade, group advantages, old log-probs, mini-batches
through the gate (or another objective), weights back to the sampler. Its parts are built in job.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NoReturn, TypeVar

import numpy as np
import torch

from sapo_vl import sft
from sapo_vl.algorithm import objectives, telemetry
from sapo_vl.config import Config, LearnerConfig
from sapo_vl.runs.folder import Interrupted, Run
from sapo_vl.runs.progress import Progress as Display
from sapo_vl.schema import RolloutGroup
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint, rollouts
from sapo_vl.training import setup as stages
from sapo_vl.training.prompt_sampler import Pick
from sapo_vl.training.trainer import (
    Clock,
    Job,
    check_finite,
    check_parity,
    preflight,
    record,
    recording,
    report,
)

Result = TypeVar("Result")


def main(config: Config, *, resume: bool) -> None:
    """Run the main job or continue it. Raises UserError, or Interrupted after a checkpoint."""
    distributed.init()
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
    distributed.init()
    torch.manual_seed(config.run.seed)
    preflight(config)
    run = Run(config, resume=resume)
    run.stop.install()
    with recording(run, resume=resume) as writer:
        folder = sft.warm_up(run, stages.policy_folder(run), writer)
    distributed.print0(f"the warmed-up model is in {folder.path}")


def sapo(job: Job, done: checkpoint.Progress) -> None:
    """Train: the paper's algorithm, one rollout batch after the other."""
    run, config, learner = job.run, job.config, job.learner
    steps, count = config.rollout.steps, config.sapo.mini_batches
    objective, tau = objectives.build(config), objectives.temperatures(config)
    with Display(None if distributed.rank() == 0 else False, steps, "SAPO") as display:
        while done.step < steps:
            clock = Clock()
            if done.buffer is not None:  # a signal ended the last start between two mini-batches
                batches, groups = rollouts.unpack(done.buffer, job.renderer)
                statistics, sums = done.extra["statistics"], done.extra["sums"]
                job.generator.sleep()
            else:
                groups, sums = or_leave(job, done, lambda: roll_out(job, done))
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
                step_report = learner.update(rows, objective, lr)
                statistics.append(telemetry.minibatch(step_report, *tau))
                done.bad_steps = check_finite(run, step_report, done.bad_steps)
                done.mini_batch += 1
                if done.mini_batch < count and run.stop.requested():
                    done.buffer = rollouts.pack(batches, groups)
                    done.extra = {"statistics": statistics, "sums": sums}
                    leave(job, done)
            clock.lap("update")
            job.generator.update_weights(learner.weights())
            clock.lap("sync")
            rollouts.keep_old_logprobs(groups, batches)
            done.step, done.mini_batch, done.buffer, done.extra = done.step + 1, 0, None, {}
            done.cursor += config.rollout.prompts
            record(job, display, done.step, groups, sums, statistics, clock, lr)
            stop = run.stop.requested()
            if stop:
                leave(job, done)
            if done.step % config.checkpoint.every == 0 or done.step == steps:
                checkpoint.save(job.checkpoints, learner, done, config.checkpoint.keep)
            every = config.evaluation.every
            if every and done.step % every == 0 and done.step < steps:
                name = f"step_{done.step:06d}"
                or_leave(job, done, lambda: job.evaluate(name, done.step))  # noqa: B023


def roll_out(job: Job, done: checkpoint.Progress) -> tuple[list[RolloutGroup], dict[str, float]]:
    """Sample, grade and compare this rank's groups of the step; return them with their sums.

    With dynamic sampling groups without a gradient are replaced, as long as there are rounds; the
    sums count what was drawn first, so that accuracy and reward are those of the data.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    picks = job.draws.step(done.step, done.cursor, rank, ranks)
    groups = sample(job, picks, done.step)
    sums = telemetry.group_sums(groups, job.config.rollout.max_new_tokens)
    rounds, taken = objectives.refill_rounds(job.config), list(picks)
    if rounds:
        sums |= {"refill_drawn": 0.0, "refill_kept": 0.0}
    for turn in range(1, rounds + 1):
        empty = [i for i, group in enumerate(groups) if not np.any(group.advantages)]
        others = job.draws.instead(done.step, turn, rank, taken, [picks[i] for i in empty])
        if distributed.all_reduce_max(len(others)) == 0:
            break
        taken += others
        found = [g for g in sample(job, others, done.step) if np.any(g.advantages)]
        for place, group in rollouts.places(groups, empty, found):
            groups[place] = group
        sums["refill_drawn"] += len(others)
        sums["refill_kept"] += len(found)
    return groups, sums


def sample(job: Job, picks: Sequence[Pick], step: int) -> list[RolloutGroup]:
    """Return a graded group for each pick."""
    own = [job.train_set[pick.index] for pick in picks]
    job.run.heartbeat([record.id for record in own])
    with job.run.stop.at_once():
        groups = rollouts.collect(job.generator, job.renderer, job.rubric, own, job.config, step)
    for pick, group in zip(picks, groups, strict=True):
        group.mini_batch = pick.mini_batch
    return groups


def probe(job: Job, groups: Sequence[RolloutGroup], step: int) -> None:
    """Compare sampler and learner on the first group before its weights are used for a step.

    A stale encoder cache or a wrong prompt shows here, also where all groups are dropped.
    """
    rows = rollouts.group_rows(groups[0], all_rows=True)
    job.learner.fill_old_logprobs(rows)
    rollouts.keep_old_logprobs(groups[:1], [rows])
    check_parity(job.config, telemetry.mismatch(groups[:1]), step + 1)


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
    distributed.print0(f"checkpoint {path}; continue with --resume run.dir={job.run.dir}")
    raise job.run.stop.error()
