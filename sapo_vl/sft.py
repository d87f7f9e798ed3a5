"""Supervised warm-up: cross-entropy on `Sample.solution`, by the learner's own forward path.

    sapo-vl sft --config configs/train/main.yaml run.dir=RUN      -> RUN/warmup/final

The main job warms up on a weak teacher's traces (half of them hasty guesses), as a cold start
before SAPO; with a real model and real traces it is the usual supervised fine-tuning. The loss is
the mean over all response tokens of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from sapo_vl.algorithm.objectives import TOKEN_MEAN, Objective
from sapo_vl.algorithm.sapo import Surrogate
from sapo_vl.config import Config, SftConfig
from sapo_vl.errors import DataError
from sapo_vl.learner.engine import Learner, RowTensors, StepReport
from sapo_vl.learner.logprobs import ResponseLogprobs
from sapo_vl.learner.rows import TrainRow
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.runs.progress import Progress as Display
from sapo_vl.schema import Sample
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint
from sapo_vl.training import setup as stages


def warm_up(run: Run, assets: ModelAssets, metrics: MetricsWriter | None) -> ModelAssets:
    """Train on solutions for sft.steps and return the folder with the result (RUN/warmup/final).

    Finished already: only opened. Interrupted: continued from its newest checkpoint.
    """
    config, final = run.config, run.dir / "warmup" / "final"
    if config.sft.steps == 0:
        return assets
    if not final.exists():
        renderer = PromptRenderer(assets, config.data)
        samples = _solved(run, renderer)
        with run.phase("warmup"):
            _train(run, assets, renderer, samples, metrics)
    return open_assets(final)


def _solved(run: Run, renderer: PromptRenderer) -> Sequence[Sample]:
    """Return the records of sft.data or data.path; they must hold solutions.

    The tiny model, which can't even write an answer yet, falls back to the procedural ones.
    """
    config = run.config
    for given in (config.sft.data or config.data.path, None):
        path = stages.data_folder(run, given)
        split = config.data.train_split
        samples = stages.usable(config, renderer, path, split, "sft.data")
        if samples[0].solution is not None:
            return samples
        if config.model.path != "tiny" or config.sft.data is not None:
            break
        distributed.print0(
            f"the records in {path} hold no solutions: warming up on procedural ones"
        )
    raise DataError(
        f"sft.data: the records in {path} hold no solutions; name records that do, or set "
        "sft.steps=0"
    )


def _train(
    run: Run,
    assets: ModelAssets,
    renderer: PromptRenderer,
    samples: Sequence[Sample],
    metrics: MetricsWriter | None,
) -> None:
    config = run.config
    root = run.dir / "warmup" / "checkpoints"
    learner = Learner(_without_temperature(config), assets)
    found = checkpoint.latest(root)
    done = checkpoint.load(found, learner) if found else checkpoint.Progress()
    if found:
        distributed.print0(f"warm-up: continuing at step {done.step} of {config.sft.steps}")
    title = f"warm-up, {config.sft.steps} steps"
    with Display(None if distributed.rank() == 0 else False, config.sft.steps, title) as display:
        while done.step < config.sft.steps:
            started = time.perf_counter()
            chosen = stages.draw(len(samples), config.run.seed, done.cursor, config.sft.batch)
            own = chosen[distributed.rank() :: distributed.world_size()]
            rows = _rows(assets, renderer, [samples[i] for i in own])
            run.heartbeat([row.prompt.sample.id for row in rows])
            lr = cosine(done.step, config.sft)
            report = learner.update(rows, OBJECTIVE, lr)
            done.step += 1
            done.cursor += config.sft.batch
            seconds = time.perf_counter() - started
            _log(metrics, display, done.step, report, lr, seconds)
            stop = run.stop.requested()
            if stop or (done.step % config.checkpoint.sft_every == 0 < done.step):
                checkpoint.save(root, learner, done, config.checkpoint.keep)
            if stop:
                raise run.stop.error()
    partial = run.dir / "warmup" / "final.partial"
    learner.export(partial)
    if distributed.rank() == 0:
        partial.rename(run.dir / "warmup" / "final")
    distributed.barrier()
    learner.close()


def cross_entropy(out: ResponseLogprobs, tensors: RowTensors) -> Surrogate:
    """Return -sum of weights * logprobs; there is no gate, so its telemetry is neutral."""
    loss = -(tensors.weights_T * out.logprobs_N).sum()
    zeros = torch.zeros_like(tensors.weights_T)
    return Surrogate(loss, -loss.detach(), zeros, zeros + 1.0, zeros + 1.0, zeros.sum())


OBJECTIVE = Objective(cross_entropy, TOKEN_MEAN)


def cosine(step: int, options: SftConfig) -> float:
    """Return the learning rate of a step: linear rise, then a cosine to `final_lr` of the peak."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    share = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    floor = options.final_lr
    return options.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


def _without_temperature(config: Config) -> Config:
    """Cross-entropy is at temperature 1, whatever rollouts are sampled at."""
    rollout = config.rollout.model_copy(update={"temperature": 1.0})
    return config.model_copy(update={"rollout": rollout})


def _rows(
    assets: ModelAssets, renderer: PromptRenderer, samples: Sequence[Sample]
) -> list[TrainRow]:
    prompts = renderer.render(samples)
    texts = [sample.solution or "" for sample in samples]
    ids = assets.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [
        TrainRow(prompt, [*own, assets.eos_ids[0]])
        for prompt, own in zip(prompts, ids, strict=True)
    ]


def _log(
    metrics: MetricsWriter | None,
    display: Display,
    step: int,
    report: StepReport,
    lr: float,
    seconds: float,
) -> None:
    tokens = sum(row.length for row in report.rows)
    sums = distributed.all_reduce_sum({"loss": report.loss, "tokens": float(tokens)})
    row = {
        "phase": "sft",
        "step": step,
        "loss": sums["loss"],
        "lr": lr,
        "grad_norm": report.grad_norm,
        "tokens_per_s/learner": sums["tokens"] / seconds,
        "seconds/step": seconds,
    }
    if metrics is not None:
        metrics.write(row)
    display.update(step, {"loss": sums["loss"], "tokens/s": sums["tokens"] / seconds})
