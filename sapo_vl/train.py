"""The SAPO training loop.

    sapo-vl train [--config FILE] [--resume] [key=value ...]

`train_step` is the algorithm; training runs, the laboratory and scripts/bench all use it. Resume,
signals, metrics, checkpoints and evaluation around a step are in training/trainer.py.
"""

from __future__ import annotations

from contextlib import closing

import torch

from sapo_vl import sft
from sapo_vl.config import Config
from sapo_vl.runs.folder import Run
from sapo_vl.runs.progress import ProgressDisplay
from sapo_vl.runs.signals import stop_watchdog
from sapo_vl.system import distributed
from sapo_vl.training import autopsy
from sapo_vl.training.checkpoint import set_aside_damaged
from sapo_vl.training.hub import push_result
from sapo_vl.training.inputs import check_inputs, input_fingerprints
from sapo_vl.training.monitor import open_metrics
from sapo_vl.training.report import write_page, write_report
from sapo_vl.training.setup import load_inputs, policy_assets, preflight
from sapo_vl.training.trainer import Step, Trainer


def train_step(trainer: Trainer, step: Step) -> None:
    """Take one SAPO step, or finish one that a signal interrupted.

    mu samples the responses and the rubric grades them. pi_old is the policy at the start of the
    step; each mini-batch updates pi_theta; at the end the sampler gets pi_theta's weights.
    """
    state, learner = trainer.state, trainer.learner
    if step.batch is None:
        sampled = trainer.next_rollouts()  # of mu: tokens, rewards, advantages
        step.batch, state.totals = sampled.batch, sampled.totals
        step.timer.lap("rollout")
        step.timer.seconds["sampling"] = sampled.seconds
    trainer.generator.sleep()
    trainer.settle_receipt()  # the sampler had the weights
    if state.mini_batch == 0:  # otherwise the checkpoint holds pi_old
        trainer.fill_old_logprobs(step.batch)  # pi_old, and its distance from mu
        step.timer.lap("old_logprobs")
    if trainer.config.algorithm.kl_coef:
        trainer.fill_reference_logprobs(step.batch)  # pi_ref, the start of the run
        step.timer.lap("reference")
    for mini_batch in step.remaining_mini_batches():
        step.add(learner.update(mini_batch, trainer.objective, step.lr))  # pi_theta
    trainer.check_weights()  # before the sampler gets them
    step.timer.lap("update")
    trainer.queue.wait_before_sync()  # with rollout.ahead the sampler may still be at work
    step.timer.lap("rollout")
    trainer.sync()  # mu = pi_theta
    step.timer.lap("sync")


def train_loop(trainer: Trainer) -> None:
    """Take the remaining steps of the run."""
    steps = trainer.config.rollout.steps
    enabled = None if distributed.rank() == 0 else False
    with ProgressDisplay(enabled, steps, "SAPO") as trainer.display:
        while trainer.state.step < steps and not trainer.best.patience_lost:
            with trainer.step() as step:
                train_step(trainer, step)


def main(config: Config, *, resume: bool) -> None:
    """Train, or resume a run. Raises UserError, RunError, or RunInterrupted after a checkpoint."""
    run = _open_run(config, resume=resume)
    inputs = load_inputs(run)
    with (
        closing(inputs.rubric),
        open_metrics(run, resume=resume) as writer,
    ):
        assets = sft.warm_up(run, inputs.assets, writer, inputs.train_set)
        trainer = Trainer(run, inputs, assets, writer)
        with closing(trainer.generator), closing(trainer.queue):
            trainer.restore()
            with run.phase("sapo"):
                train_loop(trainer)
            write_report(trainer)
    stop_watchdog()
    push_result(run)


def warm_up_only(config: Config, *, resume: bool) -> None:
    """Run the supervised warm-up alone: `sapo-vl sft`. Raises as `main` does."""
    run = _open_run(config, resume=resume)
    with open_metrics(run, resume=resume) as writer:
        sft.warm_up(run, policy_assets(run), writer)
    distributed.print0(f"the warmed-up model is in {run.dir / 'warmup' / 'final'}")
    write_page(run)


def _open_run(config: Config, *, resume: bool) -> Run:
    distributed.init()
    torch.manual_seed(config.run.seed)
    run = Run(preflight(config), resume=resume)
    check_inputs(run.dir, input_fingerprints(run.config), resume=resume)
    if resume:
        set_aside_damaged(run.dir)
    run.stop.install()
    autopsy.watch(run)
    return run
