"""`sapo-vl plan` and `sapo-vl train --dry-run`: checks and tables, without weights."""

from __future__ import annotations

import os
from pathlib import Path

from sapo_vl.algorithm import objectives
from sapo_vl.config import Config
from sapo_vl.data import store
from sapo_vl.errors import ConfigError
from sapo_vl.generator.base import check_backend, engine_ranks
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.model.weights import check_model
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.runs.progress import table
from sapo_vl.system import machine
from sapo_vl.training.plan import hardware
from sapo_vl.training.plan.fit import Plan, changes_that_fit, make_plan
from sapo_vl.training.plan.hardware import Hardware
from sapo_vl.training.plan.limits import shortages
from sapo_vl.training.plan.meta import UNREACHED, module_on_meta
from sapo_vl.training.plan.shape import ModelShape, model_shape
from sapo_vl.training.plan.tables import print_changes, print_plan
from sapo_vl.training.setup import check_delta_kernels, check_records


def plan(config: Config, config_file: Path | None, size: int | None, count: int | None) -> None:
    """Print what a run needs of GPUs, host memory, disk and time, and what to change.

    Args:
        config: the run's.
        config_file: names the hardware in a comment, which is used without `size` and a GPU.
        size: nominal GB of a GPU; None: the visible GPU's, else the comment's, else no GPU.
        count: number of GPUs (ranks); None: those visible, else the comment's, else one.

    Raises:
        ConfigError: the run does not fit. All tables are printed before.
    """
    module, origin = module_on_meta(config, ask_hub=False)
    shape = model_shape(module)
    target = planned_hardware(config_file, size, count)
    split = engine_ranks(config)
    if target.ranks % split:
        raise ConfigError(
            f"generator.tensor_parallel={split} does not divide the number of GPUs "
            f"({target.ranks}): change it or --gpus"
        )
    made = make_plan(config, shape, target)
    print(f"model: {config.model.path} ({origin}), {config.model.dtype}\n")
    _print_parameters(shape)
    print_plan(made)
    problems = _report(made)
    if problems:
        raise ConfigError(f"the run does not fit {target.label}: {'; '.join(problems)}")


def planned_hardware(config_file: Path | None, size: int | None, count: int | None) -> Hardware:
    """Return the hardware that `plan` plans for; see there."""
    visible = machine.gpu_count()
    named = hardware.assumed(config_file)
    if size is None and visible:
        size = hardware.visible_size()
    if size is None and named is not None:
        size = named[1]
    if count is None:
        count = visible or (named[0] if named else 1)
    return hardware.cpu(count) if size is None else hardware.gpus(size, count)


def show(config: Config) -> None:
    """Check a run and print its plan on this machine. Raises UserError for a bad config.

    What does not fit this machine is printed and not refused: the estimate of a GPU's memory may
    be off, and without a GPU the plan may be another machine's.
    """
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
    module, origin = module_on_meta(config)
    if origin != UNREACHED:
        check_model(config)
        check_delta_kernels(config)
        check_records(config)
    shape = model_shape(module)
    ranks = int(os.environ.get("SAPO_RANKS") or max(1, machine.gpu_count()))
    _print_run(config, origin, records, ranks)
    _print_parameters(shape)
    size = hardware.visible_size() if machine.gpu_count() else None
    target = hardware.cpu(ranks) if size is None else hardware.gpus(size, ranks)
    made = make_plan(config, shape, target)
    print_plan(made)
    for problem in [*_report(made), *shortages(made)]:
        print(f"does not fit: {problem}")


def _report(made: Plan) -> list[str]:
    """Print what would fit if the plan doesn't; return why it doesn't."""
    problems = [] if made.hardware.is_cpu else made.problems()
    if problems:
        print_changes(changes_that_fit(made))
    return problems


def _print_run(config: Config, origin: str, records: str, ranks: int) -> None:
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
    rows = {
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
    table("plan", ["what", "value"], [list(item) for item in rows.items()])


def _print_parameters(shape: ModelShape) -> None:
    table(
        "trainable parameters",
        ["component", "parameters", "trained"],
        [[name, f"{total:,}", f"{trained:,}"] for name, total, trained in shape.rows],
    )
