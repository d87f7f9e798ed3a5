"""`sapo-vl train --dry-run`: check what can be checked without weights, then print the plan.

The model is built on the meta device: shapes and parameter counts, no memory. If its config
can't be fetched (no hub), the published shapes of a known size are used, and the plan says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from sapo_vl.algorithm import objectives
from sapo_vl.config import Config
from sapo_vl.data import store, synthetic
from sapo_vl.errors import DataError, UserError
from sapo_vl.generator.base import check_backend
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.model import shapes
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import check_model, freeze, trainable_rows
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.runs.progress import table
from sapo_vl.system import machine
from sapo_vl.training.setup import TOKENIZER_TEXTS, check_records

GIB = 2**30

UNREACHED = "published shapes; the hub can't be reached"


def show(config: Config) -> None:
    """Print data, rollouts, trainable parameters and memory. Raises UserError for a bad config."""
    machine.check_gpu()
    config = objectives.resolve(config)
    build_rubric(config).close()
    check_backend(config.generator.backend)
    deepspeed_settings(config)
    if config.data.path is None:
        records = f"{config.data.synthetic_train} procedural problems, drawn in the run"
    else:
        splits = (config.data.train_split, config.data.eval_split)
        counts = [f"{len(store.load(config.data.path, s))} {s}" for s in splits]
        records = f"{', '.join(counts)} records in {config.data.path}"
    module, origin = _on_meta(config)
    if origin != UNREACHED:
        check_records(config)
    freeze(module, config.model.freeze)
    rows = trainable_rows(module)
    ranks = int(os.environ.get("SAPO_RANKS") or max(1, machine.gpu_count()))
    options = config.rollout
    device = "GPU" if machine.gpu_count() else "CPU"
    step = (
        f"{options.prompts} prompts x {options.group_size} responses of at most "
        f"{options.max_new_tokens} tokens, {config.algorithm.num_mini_batches} mini-batches"
    )
    parallel = (
        f"{ranks} ({device}), ZeRO stage {config.learner.zero_stage}, tensor parallel "
        f"{config.generator.tensor_parallel}"
    )
    options_text = ", ".join(f"{key} {v}" for key, v in config.objective_options.items())
    plan = {
        "model": f"{config.model.path} ({origin}), {config.model.dtype}",
        "data": records,
        "objective": f"{config.objective} ({options_text})" if options_text else config.objective,
        "rewards": ", ".join(f"{t.weight:g} x {t.fn}" for t in config.rewards),
        "warm-up": f"{config.sft.steps} steps of {config.sft.batch} records",
        "step": step,
        "steps": str(options.steps),
        "ranks": parallel,
        "run folder": str(config.run.dir),
    }
    table("plan", ["what", "value"], [list(item) for item in plan.items()])
    table(
        "trainable parameters",
        ["component", "parameters", "trained"],
        [[name, f"{total:,}", f"{trained:,}"] for name, total, trained in rows],
    )
    _, total, trained = rows[-1]
    estimates = memory(total, trained, config, ranks)
    table(
        f"learner's memory per rank at {ranks} ranks, before activations (estimate)",
        ["what", "GiB"],
        [[name, f"{size / GIB:.2f}"] for name, size in estimates],
    )


def memory(parameters: int, trained: int, config: Config, ranks: int) -> list[tuple[str, float]]:
    """Return (what, bytes) on a rank's device: weights, gradients, optimizer, all.

    Bytes per parameter: in bf16 2 for the weight, 2 for the gradient (4 when they add up in
    float32), 12 for the float32 copy and
    Adam's two moments; in float32 4, 4 and 8. ZeRO shards the optimizer from stage 1, gradients
    from stage 2 and weights in stage 3 over the ranks.
    """
    half = config.model.dtype == "bfloat16"
    stage = config.learner.zero_stage
    weights = parameters * (2 if half else 4) / (ranks if stage == 3 else 1)
    narrow = half and config.learner.grad_accum_dtype is None
    gradients = trained * (2 if narrow else 4) / (ranks if stage >= 2 else 1)
    optimizer = trained * (12 if half else 8) / (ranks if stage >= 1 else 1)
    if config.learner.offload_parameters:
        weights = 0.0
    if config.learner.offload_optimizer:
        optimizer = 0.0
    parts = [("weights", weights), ("gradients", gradients), ("optimizer", optimizer)]
    return [*parts, ("all", weights + gradients + optimizer)]


def _on_meta(config: Config) -> tuple[Any, str]:
    from transformers import AutoModelForImageTextToText

    if config.model.path == "tiny":
        from tempfile import TemporaryDirectory

        from sapo_vl.model import tiny

        with TemporaryDirectory() as folder:
            tiny.build(Path(folder) / "tiny", corpus=synthetic.corpus(0, TOKENIZER_TEXTS), seed=0)
            found, origin = open_assets(Path(folder) / "tiny").config, "built in the run"
    else:
        try:
            found, origin = open_assets(config.model.path).config, "its own config"
        except UserError as error:
            known = None if Path(config.model.path).exists() else shapes.configuration(
                config.model.path
            )  # fmt: skip
            if known is None:
                raise DataError(str(error)) from error
            found, origin = known, UNREACHED
    if origin != UNREACHED:
        check_model(config)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(found), origin
