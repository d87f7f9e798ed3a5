"""The learner on the four-layer model: layouts and attention forms, ZeRO stages, offload.

`check_policy` needs no DeepSpeed. The others compare whole learners: log-probs before an update,
the gradient's norm, and log-probs after it, relative to how far the update moved them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from bench import measure, random_model, variants

from gpu_check.kernels import distance
from gpu_check.outcome import Outcome, Setting, at_most
from sapo_vl import config as configs
from sapo_vl.algorithm import objectives
from sapo_vl.config import Config
from sapo_vl.learner import attention
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import Prompt, Rollout

LR = 1e-3

OLD_NOISE = 0.3
"""Standard deviation of log r in `check_policy`, so that the gate is active on both sides of 1."""

POLICY_BOUNDS = {"float32": (1e-4, 1e-3), "bfloat16": (5e-3, 2e-2)}
"""Difference of the loss, and relative error of the gradient of all weights, against float32.

An H100 has 1e-3 and 9e-3 in bfloat16.
"""

UPDATE_BOUNDS = {("cpu", "float32"): 1e-3, ("cuda", "float32"): 1e-3, ("cuda", "bfloat16"): 1e-2}
"""Largest share of an update's effect on log-probs by which two ways to take it may differ.

A GPU adds up gradients in no fixed order, and Adam makes the sign of the smallest count; on one
H100 the worst difference was 8e-7.
"""

SAME_LOGPROBS = {"cpu": 0.0, "cuda": 1e-4}
"""Mean difference of log-probs between ZeRO stages, in nats: they shard, and round nothing."""

PARITY = {"cpu": 1e-4, "cuda": 2e-2}
"""Bound of the mean |learner's - sampler's log-prob|, in nats: float32 and bfloat16."""


def dtype_of(setting: Setting) -> str:
    """Return the model.dtype of parts that try one type."""
    return "bfloat16" if setting.device == "cuda" else "float32"


def configuration(setting: Setting, dtype: str, *overrides: str) -> Config:
    """Return a configuration of the four-layer model."""
    return configs.load(
        None,
        [
            f"model.path={setting.folder / 'model'}",
            f"run.dir={setting.folder / 'run'}",
            f"model.dtype={dtype}",
            "model.gradient_checkpointing=none",
            "data.min_pixels=1024",
            "data.max_pixels=65536",
            "rollout.max_new_tokens=16",
            "learner.micro_batch_tokens=96",
            "generator.max_model_len=512",
            "generator.max_images=2",
            "generator.kv_cache_mb=64",
            *overrides,
        ],
    )


def rendered(assets: ModelAssets, config: Config) -> list[Prompt]:
    """Return three prompts, with 0, 1 and 2 pictures."""
    return random_model.prompts(PromptRenderer(assets, config.data), (0, 1, 2), 64)


def batch(assets: ModelAssets, config: Config) -> list[Rollout]:
    """Return nine rollouts: three responses to each of three prompts."""
    vocabulary = assets.config.text_config.vocab_size
    return random_model.rollouts(rendered(assets, config), vocabulary, 3, 8)


def check_policy(setting: Setting) -> Iterator[Outcome]:
    """Compare layouts and attention forms with dense attention in float32: one step's results."""
    from sapo_vl.model.weights import load_weights

    assets = open_assets(setting.folder / "model")
    config = configuration(setting, "float32")
    rollouts = batch(assets, config)
    random = np.random.default_rng(0)
    for rollout in rollouts:
        rollout.old_logprobs = np.full(len(rollout.token_ids), -12.0, np.float32)
        rollout.old_logprobs += random.normal(scale=OLD_NOISE, size=len(rollout.token_ids))

    def step(dtype: str, layout: str, form: str | None) -> tuple[Any, dict[str, Any]]:
        model = load_weights(assets, dtype).to(setting.device)
        variant = variants.ours(model, assets, rollouts, layout)
        if form is not None:
            attention.install(model, form)
        figures = {}
        if setting.device == "cuda":
            used = measure.peak_memory(variant.run, torch.device("cuda"))
            figures = {"peak_GiB": used * 1e6 / 2**30}
        figures["loss"] = variant.run()
        gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
        return torch.cat(gradients), figures

    reference, expected = step("float32", "shared_prefix", "dense")
    cases = [("float32", "shared_prefix", "cascade"), ("float32", "padded", None)]
    if setting.device == "cuda":
        forms = [("bfloat16", "shared_prefix", form) for form in ("flex", "varlen", "dense")]
        cases = [*forms, ("bfloat16", "padded", None)]
    for dtype, layout, form in cases:
        gradient, figures = step(dtype, layout, form)
        loss_bound, bound = POLICY_BOUNDS[dtype]
        name = f"{layout} {form}, {dtype}" if form else f"{layout}, {dtype}"
        yield at_most(f"{name}: gradient", bound, distance(gradient, reference), **figures)
        yield at_most(f"{name}: loss", loss_bound, abs(figures["loss"] - expected["loss"]))


class Trained(NamedTuple):
    """A learner's results."""

    before: np.ndarray  # log-probs of all response tokens
    after: np.ndarray  # the same after the updates
    norm: float  # of the last gradient
    seconds: float  # of the updates
    peak: float  # GiB; 0 on a CPU


def learn(setting: Setting, dtype: str, *overrides: str, updates: int = 1) -> Trained:
    """Score the batch with a new learner, update it, and score it again.

    After each update the learner sleeps, which moves nothing unless the configuration says so.
    """
    from sapo_vl.learner.engine import Learner

    config = configuration(setting, dtype, *overrides)
    assets = open_assets(setting.folder / "model")
    rollouts = batch(assets, config)
    objective = objectives.build(config)
    if setting.device == "cuda":
        measure.reset_peak()
    learner = Learner(config, assets)
    try:
        before = scores(learner, rollouts)
        norm, started = float("nan"), time.perf_counter()
        for _ in range(updates):
            report = learner.update(rollouts, objective, LR)
            norm = float("nan") if report.skipped else report.grad_norm
            learner.sleep()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else 0.0
        after = scores(learner, rollouts) if updates else before
    finally:
        learner.close()
    return Trained(before, after, norm, seconds, peak)


def scores(learner: Any, rollouts: list[Rollout]) -> np.ndarray:
    """Return the learner's log-probs of all response tokens, and keep them as the old ones."""
    learner.fill_old_logprobs(rollouts)
    return np.concatenate([rollout.old_logprobs for rollout in rollouts])


def same_update(what: str, setting: Setting, dtype: str, a: Trained, reference: Trained) -> Outcome:
    """Return whether two learners took the same update, see the module's docstring."""
    moved = np.abs(reference.after - reference.before).mean()
    error = float(np.abs(a.after - reference.after).mean() / moved)
    norm = abs(a.norm - reference.norm) / reference.norm
    figures = {"norm_error": norm, "moved_nats": float(moved), "seconds": a.seconds}
    if setting.device == "cuda":
        figures["peak_GiB"] = a.peak
    # NaN, from a skipped step, must not pass
    worst = error if error >= norm else norm
    return at_most(what, UPDATE_BOUNDS[setting.device, dtype], worst, **figures)


def check_zero(setting: Setting) -> Iterator[Outcome]:
    """Compare ZeRO-3 and gradient checkpointing with ZeRO-2 without: log-probs, then an update."""
    plain = learn(setting, "bfloat16", "learner.zero_stage=2", updates=0)
    sharded = learn(setting, "bfloat16", "learner.zero_stage=3", updates=0)
    gap = float(np.abs(sharded.before - plain.before).mean())
    what = "log-probs of ZeRO-3 against ZeRO-2, bfloat16"
    yield at_most(what, SAME_LOGPROBS[setting.device], gap)
    dtypes = ("float32", "bfloat16") if setting.device == "cuda" else ("float32",)
    stages, kinds = (2, 3), ("none", "alternate", "all")
    if setting.device == "cpu":
        stages, kinds = (3,), ("none", "alternate")
    for dtype in dtypes:
        reference = learn(setting, dtype, "learner.zero_stage=2")
        for stage in stages:
            for kind in kinds:
                overrides = (f"learner.zero_stage={stage}", f"model.gradient_checkpointing={kind}")
                trained = learn(setting, dtype, *overrides)
                what = f"update of ZeRO-{stage}, checkpointing {kind}, {dtype}"
                yield same_update(what, setting, dtype, trained, reference)


def check_offload(setting: Setting) -> Iterator[Outcome]:
    """Compare updates with optimizer and parameters on the host, always or between updates."""
    dtype = dtype_of(setting)
    reference = learn(setting, dtype, "learner.zero_stage=2")
    for stage, keys in (
        (2, ("optimizer",)),
        (3, ("optimizer",)),
        (3, ("optimizer", "parameters")),
    ):
        if setting.device == "cpu" and (stage, len(keys)) == (3, 1):
            continue  # the two others run the same code
        overrides = [f"learner.offload_{key}=true" for key in keys]
        trained = learn(setting, dtype, f"learner.zero_stage={stage}", *overrides)
        what = f"update of ZeRO-{stage}, {' and '.join(keys)} offloaded, {dtype}"
        yield same_update(what, setting, dtype, trained, reference)
    twice = learn(setting, dtype, "learner.zero_stage=2", updates=2)
    for stage in (2, 3) if setting.device == "cuda" else (3,):
        overrides = [f"learner.zero_stage={stage}", "learner.offload_while_sampling=true"]
        trained = learn(setting, dtype, *overrides, updates=2)
        what = f"two updates of ZeRO-{stage}, optimizer on the host between them, {dtype}"
        yield same_update(what, setting, dtype, trained, twice)
