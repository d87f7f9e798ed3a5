"""Supervised warm-up: cross-entropy on `Sample.solution`, through the learner's forward path.

    sapo-vl sft --config configs/train/main.yaml run.dir=RUN      -> RUN/warmup/final

In the main job (configs/train/main.yaml) this is a cold start for SAPO, on a weak teacher's traces,
half of them hasty guesses; with a real model and real traces it is ordinary supervised fine-tuning.
The loss is the mean over all response tokens of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from sapo_vl.algorithm.objectives.spec import TOKEN_MEAN, Objective
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import Config, tiny_family
from sapo_vl.config.sections import LoraConfig, SftConfig
from sapo_vl.errors import DataError, printable
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer, Rendered
from sapo_vl.model.render_ahead import RenderAhead
from sapo_vl.model.usable_samples import UsableSamples, usable_samples
from sapo_vl.rewards.parsing.extract import THINK_CLOSE, THINK_OPEN
from sapo_vl.runs.folder import Run
from sapo_vl.runs.metrics import MetricsWriter
from sapo_vl.runs.progress import ProgressDisplay
from sapo_vl.schema import Rollout, Sample
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint
from sapo_vl.training.checkpoint import TrainState
from sapo_vl.training.prompt_sampler import shuffled_indices
from sapo_vl.training.setup import data_folder, sapo_start


def warm_up(
    run: Run,
    assets: ModelAssets,
    metrics: MetricsWriter | None,
    train_set: UsableSamples | None = None,
) -> ModelAssets:
    """Train on solutions for sft.steps steps into RUN/warmup/final; return SAPO's starting model.

    That is the resulting one, or with adapters their base: setup.sapo_start has the adapters.

    `train_set` are the usable records of data.path, where they have been looked for before. A
    finished warm-up is not repeated; an interrupted one resumes from its newest checkpoint.
    """
    config, final = run.config, run.dir / "warmup" / "final"
    if config.sft.steps == 0:
        return assets
    if not final.exists():
        renderer = PromptRenderer(assets, config.data)
        samples = _solved_samples(run, renderer, train_set)
        with run.phase("warmup"):
            _train(run, assets, renderer, samples, metrics)
    return open_assets(sapo_start(config).model)


def _solved_samples(
    run: Run, renderer: PromptRenderer, train_set: UsableSamples | None
) -> UsableSamples:
    """Return the records of sft.data or data.path, which must hold solutions.

    The tiny model, which can't produce an answer yet, falls back to procedural problems.
    """
    config = run.config
    for given in (config.sft.data or config.data.path, None):
        path = data_folder(run, given)
        if train_set is not None and given == config.data.path:
            samples = train_set
        else:
            samples = usable_samples(config, renderer, path, config.data.train_split, "sft.data")
        solved = renderer.trainable_solutions(samples.column("solution"))
        if solved:
            missing = len(samples) - len(solved)
            if missing:
                distributed.print0(
                    f"sft.data: {missing} of {len(samples)} records left out of the warm-up: no "
                    "solution, or one with vision tokens"
                )
            return samples.subset(solved)
        if tiny_family(config.model.path) is None or config.sft.data is not None:
            break
        distributed.print0(f"the records in {path} have no solutions: using procedural ones")
    raise DataError(
        f"sft.data: the records in {path} have no solutions; name records that do, or set "
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
    root, steps = run.dir / "warmup" / "checkpoints", config.sft.steps
    learner = Learner(_learner_config(config), assets)
    newest = checkpoint.latest(root)
    state = checkpoint.load(newest, learner) if newest else TrainState()
    if newest:
        distributed.print0(f"warm-up: continuing at step {state.step} of {steps}")
    ahead = RenderAhead(renderer, samples)

    def share(cursor: int) -> list[int]:
        """Return the indices of this rank's records of the step that starts at `cursor`."""
        batch = shuffled_indices(len(samples), config.run.seed, cursor, config.sft.batch)
        return batch[distributed.rank() :: distributed.world_size()]

    enabled = None if distributed.rank() == 0 else False
    with ProgressDisplay(enabled, steps, f"warm-up, {steps} steps") as display:
        while state.step < steps:
            started = time.perf_counter()
            rollouts = _solutions(assets, renderer, ahead.take(share(state.cursor)))
            if state.step + 1 < steps:
                ahead.start(share(state.cursor + config.sft.batch))
            run.heartbeat([rollout.prompt.sample.id for rollout in rollouts])
            lr = cosine(state.step, config.sft)
            report = learner.update(rollouts, OBJECTIVE, lr)
            state.step += 1
            state.cursor += config.sft.batch
            seconds = time.perf_counter() - started
            _log(metrics, display, state.step, report, lr, seconds)
            stop = run.stop.requested()
            if stop or state.step % config.checkpoint.sft_every == 0:
                checkpoint.save(root, learner, state, config.checkpoint.keep)
            if stop:
                raise run.stop.error()
    partial = run.dir / "warmup" / "final.partial"
    learner.export(partial)
    if distributed.rank() == 0:
        partial.rename(run.dir / "warmup" / "final")
    distributed.barrier()
    learner.close()


def cross_entropy(inputs: LossInputs) -> Surrogate:
    """Return -sum of weights * logprobs; without a gate, the gate telemetry is neutral."""
    loss = -(inputs.weights_T * inputs.logprobs_T).sum()
    zeros_T = torch.zeros_like(inputs.weights_T)
    return Surrogate(loss, -loss.detach(), zeros_T, zeros_T + 1.0, zeros_T + 1.0, zeros_T.sum())


OBJECTIVE = Objective(cross_entropy, TOKEN_MEAN)


def cosine(step: int, options: SftConfig) -> float:
    """Return a step's learning rate: linear warm-up, then cosine decay to lr * final_lr."""
    if step < options.lr_warmup_steps:
        return options.lr * (step + 1) / options.lr_warmup_steps
    share = (step - options.lr_warmup_steps) / max(1, options.steps - options.lr_warmup_steps)
    floor = options.final_lr
    return options.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


def _learner_config(config: Config) -> Config:
    """Return the config with temperature 1 for cross-entropy, and adapters only by sft.lora."""
    rollout = config.rollout.model_copy(update={"temperature": 1.0})
    model = config.model
    if not config.sft.lora:
        model = model.model_copy(update={"lora": LoraConfig()})
    return config.model_copy(update={"rollout": rollout, "model": model})


def _solutions(assets: ModelAssets, renderer: PromptRenderer, rendered: Rendered) -> list[Rollout]:
    """Return each sample's solution as the response to train on, closed by the turn's end token.

    A sample that can't be rendered is left out, which is said. Raises DataError if all are.
    """
    prompts, faults = rendered
    for error in faults.values():
        print(f"warm-up: left out: {printable(error)}", flush=True)
    if not prompts:
        raise next(iter(faults.values()))
    texts = [continuation(prompt.opening, prompt.sample.solution or "") for prompt in prompts]
    ids = assets.tokenizer(texts, add_special_tokens=False)["input_ids"]
    end = renderer.template.turn_end()
    return [
        Rollout(prompt, [*token_ids, end], text)
        for prompt, token_ids, text in zip(prompts, ids, texts, strict=True)
    ]


def continuation(opening: str, solution: str) -> str:
    """Return how a response goes on to `solution` where the template has begun it.

    Where the template opens a thought, the solution's own `<think>` is cut, and a solution without
    a thought closes it first. Worked examples for the opening `<think>\\n`:

        <think>3 + 4</think>7   ->   3 + 4</think>7
        7                       ->   \\n</think>\\n\\n7
    """
    open_thought = opening.rfind(THINK_OPEN) > opening.rfind(THINK_CLOSE)
    if not open_thought:
        return solution.removeprefix(opening) if opening.strip() else solution
    if THINK_CLOSE not in solution:
        return f"\n{THINK_CLOSE}\n\n{solution}"
    before, mark, after = solution.partition(THINK_OPEN)
    if not mark or before.strip():
        return solution
    return after.removeprefix("\n") if opening.endswith("\n") else after


def _log(
    metrics: MetricsWriter | None,
    display: ProgressDisplay,
    step: int,
    report: UpdateReport,
    lr: float,
    seconds: float,
) -> None:
    tokens = sum(rollout.length for rollout in report.rollouts)
    totals = distributed.all_reduce_sum({"loss": report.loss, "tokens": float(tokens)})
    row = {
        "phase": "sft",
        "step": step,
        "loss": totals["loss"],
        "lr": lr,
        "grad_norm": report.grad_norm,
        "tokens_per_s/learner": totals["tokens"] / seconds,
        "seconds/step": seconds,
    }
    if metrics is not None:
        metrics.write(row)
    display.update(step, {"loss": totals["loss"], "tokens/s": totals["tokens"] / seconds})
