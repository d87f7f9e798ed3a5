"""`sapo-vl train`, `plan`, `sft`, `export`, `push`, `init-tiny`, `gate` and `lab`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sapo_vl.cli.doctor import named_after_failure
from sapo_vl.cli.options import (
    add_config,
    check_objective,
    config_file,
    find_config,
    interruptible,
    load_config,
    names,
)
from sapo_vl.config import Config, named_run_dir
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.system.machine import prepare_environment

PLANNED_GPUS = (24, 48, 80, 141)
"""Sizes in GB of the cards that training/plan/hardware.py knows."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands of this file to `commands`."""
    train = commands.add_parser("train", help="warm up, train with SAPO, evaluate before and after")
    add_config(train)
    train.add_argument("--resume", action="store_true", help="continue the run in run.dir")
    train.add_argument(
        "--dry-run", action="store_true", help="check the set-up and print the plan, don't train"
    )
    train.set_defaults(run=_train, parser=train)

    plan = commands.add_parser(
        "plan", help="print what a run needs: memory, disk, seconds; and what to change"
    )
    add_config(plan)
    plan.add_argument(
        "--gpu",
        type=int,
        choices=PLANNED_GPUS,
        help="memory of a GPU in GB (default: the visible GPU's, else the one that the "
        "configuration's comment names)",
    )
    plan.add_argument("--gpus", type=int, metavar="N", help="number of GPUs, one rank on each")
    plan.set_defaults(run=_plan, parser=plan)

    sft = commands.add_parser("sft", help="supervised warm-up only, into RUN/warmup/final")
    add_config(sft)
    sft.add_argument("--resume", action="store_true", help="continue the run in run.dir")
    sft.set_defaults(run=_sft, parser=sft)

    export = commands.add_parser("export", help="write a checkpoint as a Hugging Face folder")
    export.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.add_argument("--checkpoint", help="e.g. step_000020 (default: the newest whole one)")
    export.add_argument(
        "--adapter-only", action="store_true", help="write the adapter alone, in PEFT's form"
    )
    export.set_defaults(run=_export, parser=export)

    push = commands.add_parser("push", help="push a finished run's model to the Hugging Face Hub")
    push.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    push.add_argument("--repo", metavar="OWNER/NAME", help="repository (default: run.hub_repo)")
    push.set_defaults(run=_push, parser=push)

    tiny = commands.add_parser("init-tiny", help="build a tiny random model as a model folder")
    tiny.add_argument("out", type=Path, help="folder to write")
    tiny.add_argument("--seed", type=int, default=0, help="of the weights and the tokenizer")
    tiny.add_argument(
        "--family", default="qwen3_vl", help="a model_type of README's table (default: qwen3_vl)"
    )
    tiny.set_defaults(run=_init_tiny, parser=tiny)

    gate = commands.add_parser("gate", help="print a gate's weight over the importance ratio")
    gate.add_argument("--tau", type=float, default=1.0, help="temperature (default: 1)")
    gate.add_argument("--gate", default="sigmoid", help="a value of sapo.gate (default: sigmoid)")
    gate.set_defaults(run=_gate, parser=gate)

    _add_lab(commands)


def _add_lab(commands: argparse._SubParsersAction) -> None:
    lab = commands.add_parser("lab", help="grids of small training runs, and a page about them")
    lab.add_argument("--grids", default="a,b", metavar="a,b", help="grids to run (default: a,b)")
    lab.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default: 3)")
    lab.add_argument("--steps", type=int, help="rollout steps per cell")
    lab.add_argument("--jobs", type=int, help="cells in parallel (default: one per core)")
    lab.add_argument("--out", type=Path, required=True, help="folder for results and page")
    lab.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config keys for every cell, e.g. rollout.prompts=16",
    )
    lab.set_defaults(run=_lab, parser=lab)


def _load_run(arguments: argparse.Namespace) -> Config:
    """Load the configuration; with --resume, --config and overrides change the run's own."""
    if not arguments.resume:
        return load_config(arguments)
    from sapo_vl.runs.files import user_path
    from sapo_vl.runs.record import resumed_config

    run_dir = named_run_dir(config_file(arguments), arguments.overrides)
    with user_path("run.dir", run_dir):
        started = (run_dir / "config.yaml").exists()
    if not started:
        raise ConfigError(f"run.dir={run_dir} holds no run to resume")
    file = find_config(arguments.config) if arguments.config is not None else None
    return resumed_config(run_dir, file, arguments.overrides)


def _train(arguments: argparse.Namespace) -> None:
    prepare_environment()
    config = _load_run(arguments)
    check_objective(config)
    with named_after_failure():
        if arguments.dry_run:
            from sapo_vl.training.plan.show import show

            show(config)
            return
        from sapo_vl import train

        interruptible(lambda: train.main(config, resume=arguments.resume))


def _plan(arguments: argparse.Namespace) -> None:
    prepare_environment()
    config = load_config(arguments)
    check_objective(config)
    if arguments.gpus is not None and arguments.gpus < 1:
        raise ConfigError(f"--gpus {arguments.gpus} must be at least 1")
    from sapo_vl.training.plan.show import plan

    plan(config, config_file(arguments), arguments.gpu, arguments.gpus)


def _sft(arguments: argparse.Namespace) -> None:
    prepare_environment()
    config = _load_run(arguments)
    if config.sft.steps == 0:
        raise ConfigError("sft.steps=0: set the number of warm-up steps")
    check_objective(config)
    from sapo_vl import train

    interruptible(lambda: train.warm_up_only(config, resume=arguments.resume))


def _export(arguments: argparse.Namespace) -> None:
    prepare_environment()
    from sapo_vl.training import export

    export.main(
        arguments.run_dir,
        arguments.out,
        arguments.checkpoint,
        adapter_only=arguments.adapter_only,
    )


def _push(arguments: argparse.Namespace) -> None:
    prepare_environment()
    from sapo_vl.training import hub

    hub.main(arguments.run_dir, arguments.repo)


def _init_tiny(arguments: argparse.Namespace) -> None:
    prepare_environment()
    from sapo_vl.data import synthetic
    from sapo_vl.model import tiny
    from sapo_vl.runs.files import user_path
    from sapo_vl.training.setup import TOKENIZER_TEXTS

    if not 0 <= arguments.seed < 10**9:
        raise ConfigError("--seed must be from 0 to 999999999")
    corpus = synthetic.corpus(arguments.seed, TOKENIZER_TEXTS)
    with user_path("OUT", arguments.out):
        tiny.build(arguments.out, corpus=corpus, seed=arguments.seed, family=arguments.family)
    print(f"wrote {arguments.out}")


def _gate(arguments: argparse.Namespace) -> None:
    from sapo_vl.algorithm import gates

    if arguments.gate not in gates.GATES:
        raise ConfigError(
            f"--gate {arguments.gate!r} is unknown{nearest(arguments.gate, gates.GATES)}; "
            f"allowed: {', '.join(gates.GATES)}"
        )
    if not 0 < arguments.tau < float("inf"):
        raise ConfigError(f"--tau {arguments.tau:g} must be positive and finite")
    print(gates.table(arguments.gate, arguments.tau))


def _lab(arguments: argparse.Namespace) -> None:
    from sapo_vl.lab import grids, runner

    chosen = names(arguments.grids)
    if not chosen or arguments.seeds < 1 or (arguments.jobs or 1) < 1:
        raise ConfigError("--grids must name a grid, --seeds and --jobs must be at least 1")
    page = runner.main(
        chosen,
        arguments.seeds,
        arguments.out,
        steps=arguments.steps or grids.STEPS,
        jobs=arguments.jobs,
        overrides=arguments.overrides,
    )
    print(f"wrote {page}")
