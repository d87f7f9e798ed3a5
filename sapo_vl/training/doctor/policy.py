"""The model itself: the engine against the learner, then one update and its receipt.

The update is thrown away. Its learning rate is at least LEAST_LR: an update that moves nothing
would prove nothing about its delivery.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np

from sapo_vl.algorithm import objectives
from sapo_vl.generator.base import (
    Generator,
    SamplingParams,
    build,
    engine_ranks,
    requests_of,
    sampler_dtype,
)
from sapo_vl.learner.engine import Learner
from sapo_vl.model.weight_files import weight_files
from sapo_vl.schema import Prompt, Rollout, RolloutGroup
from sapo_vl.training.doctor.findings import Finding, doubtful, fine, skipped, wrong
from sapo_vl.training.doctor.subject import Subject
from sapo_vl.training.parity import KINDS, ParityCheck, check_weights, mismatch_of, parity_limits
from sapo_vl.training.plan.limits import memory_shortage
from sapo_vl.training.receipt import MOVED, DeliveryCheck

RESPONSES = 2
"""Sampled for each prompt."""

TOKENS = 16
"""Of a response at most."""

LEAST_LR = 1e-4


def check_start(subject: Subject) -> Iterator[Finding]:
    """Load the learner and start the engine, in this one process.

    Raises SetupError or DataError where one of them can't; says so where one process is not enough.
    """
    reason = _not_here(subject)
    if reason:
        yield skipped(
            reason, "a run of a few steps tries it: rollout.steps=2 in a run.dir of its own"
        )
        return
    config, assets = subject.trained, subject.assets
    subject.learner = Learner(config, assets)
    subject.learner.sleep()
    if subject.generator is None:
        subject.generator = build(config, assets, seed=config.run.seed, adapter=True)
    yield fine(f"the learner has its weights, and {config.generator.backend} has started")


def _not_here(subject: Subject) -> str:
    """Return why one process can't hold the model, or nothing."""
    assets = subject.assets
    if assets.is_hub_id and not weight_files(assets.folder):
        return f"the weights of {assets.path} aren't on this machine yet"
    if engine_ranks(subject.config) > 1:
        return f"generator.tensor_parallel={engine_ranks(subject.config)} needs as many processes"
    made = subject.plan(1)
    problems = [] if made.hardware.is_cpu else made.problems()
    return next(iter([*problems, memory_shortage(made)]), "")


def check_parity(subject: Subject) -> Iterator[Finding]:
    """Compare the engine's log-probs with the learner's, as training does at its first step.

    With vLLM its ids and patches of raw pictures are compared with ours too. Raises ParityError,
    WeightsError, or DataError for other ids or patches.
    """
    config, learner, prompts = subject.trained, _learner(subject), subject.prompts
    send(subject, version=0)
    groups = sample(subject, prompts)
    _generator(subject).sleep()
    learner.fill_old_logprobs([r for group in groups for r in group.rollouts])
    mismatch = mismatch_of(groups)
    dtype = sampler_dtype(config, subject.assets)
    warnings = ParityCheck(config, dtype).observe(mismatch, 0, learner.model)
    for line in warnings:
        yield doubtful(
            line.removeprefix("warning: "),
            "use the tested versions; generator.parity_warn sets the limit",
        )
    if warnings:
        return
    count = sum(len(r.token_ids) for group in groups for r in group.rollouts)
    limits = parity_limits(config, dtype)
    gaps = [
        f"{mismatch[f'mismatch/mean_abs_{kind}']:.2g} nats on {words} (a warning from "
        f"{limits.warn[kind]:g})"
        for kind, words in KINDS.items()
        if f"mismatch/mean_abs_{kind}" in mismatch
    ]
    yield fine(f"{count} tokens of {len(prompts)} prompts, mean difference {', '.join(gaps)}")


def check_update(subject: Subject) -> Iterator[Finding]:
    """Take an optimizer step, send the weights, and see whether the engine has them.

    Raises DeliveryError or WeightsError.
    """
    config, learner, generator = subject.trained, _learner(subject), _generator(subject)
    prompts = subject.prompts
    send(subject, version=0)
    before = [r for group in sample(subject, prompts, responses=1) for r in group.rollouts]
    rollouts = [r for group in sample(subject, prompts) for r in group.rollouts]
    generator.sleep()
    for i, rollout in enumerate(rollouts):
        rollout.advantage = 1.0 - 2.0 * (i % 2)
        rollout.old_logprobs = None
    old = _learners(learner, before)
    if config.algorithm.kl_coef:
        learner.keep_reference()
        learner.fill_reference_logprobs([rollouts])
    lr = max(LEAST_LR, config.learner.lr)
    report = learner.update(rollouts, objectives.build(config), lr)
    if report.skipped:
        yield wrong(
            "the gradient of the first update is not finite",
            "use model.dtype=float32 or bfloat16 as the model was trained in, and whole weights",
        )
        return
    check_weights(config, learner.model, 1)
    moved = float(np.abs(_learners(learner, before) - old).mean())
    check = DeliveryCheck(config, prompts, sampler_dtype(config, subject.assets))
    send(subject, version=1)
    after = [r for group in sample(subject, prompts, responses=1) for r in group.rollouts]
    told = (
        f"gradient norm {report.grad_norm:.3g}; the learner's log-probs moved by {moved:.2g} nats"
    )
    if moved <= MOVED:
        yield doubtful(f"{told}: too little to see it arrive", "is anything trained? model.freeze")
    elif _same(before, after):
        yield wrong(
            f"stale engine: {told}, and {config.generator.backend} answers as before the update, "
            "to the last bit: it samples from old weights, or from caches of them",
            "generator.backend's update_weights must load all weights and drop every cache",
        )
    else:
        receipt = check.ask(generator, learner, 1)
        if receipt is None:
            generator.sleep()
            receipt = check.settle(learner)
        yield fine(f"{told}; the engine follows, to {receipt.max_abs:.2g} nats on each token")


def send(subject: Subject, *, version: int) -> None:
    """Give the engine the learner's weights, as the trainer does."""
    learner, generator = _learner(subject), _generator(subject)
    learner.sleep()
    if subject.config.model.lora.rank:
        generator.update_adapter(learner.adapter(), version)
    else:
        generator.update_weights(learner.weights(), version)


def sample(
    subject: Subject, prompts: Sequence[Prompt], responses: int = RESPONSES
) -> list[RolloutGroup]:
    """Sample responses to the prompts; the same call gives the same ones by the same weights."""
    options = subject.config.rollout
    params = SamplingParams(responses, options.temperature, min(TOKENS, options.max_new_tokens))
    seeds = [subject.config.run.seed] * len(prompts)
    answers = _generator(subject).generate(requests_of(prompts, params, seeds))
    return [RolloutGroup(p, list(a)) for p, a in zip(prompts, answers, strict=True)]


def _same(before: Sequence[Rollout], after: Sequence[Rollout]) -> bool:
    """Whether tokens and log-probs are the same to the last bit."""
    return all(
        a.token_ids == b.token_ids and np.array_equal(_of_sampler(a), _of_sampler(b))
        for a, b in zip(before, after, strict=True)
    )


def _of_sampler(rollout: Rollout) -> np.ndarray:
    assert rollout.generator_logprobs is not None
    return rollout.generator_logprobs


def _learners(learner: Learner, rollouts: Sequence[Rollout]) -> np.ndarray:
    """Return the learner's log-probs of all tokens."""
    scored = [copy.copy(rollout) for rollout in rollouts]
    learner.fill_old_logprobs(scored)
    return np.concatenate([r.old_logprobs for r in scored if r.old_logprobs is not None])


def _learner(subject: Subject) -> Learner:
    assert subject.learner is not None
    return subject.learner


def _generator(subject: Subject) -> Generator:
    assert subject.generator is not None
    return subject.generator
