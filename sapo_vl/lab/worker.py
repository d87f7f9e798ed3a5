"""A worker process of the lab: runs cells one after another with one sampler.

The sampler is started once per seed's model and is sent each cell's weights; the learner is new for
each cell. OUT/cells/NAME/result.json is written when the cell has finished: a killed cell has none
and is run again from the start.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from sapo_vl.config import CONFIGS, Config, load
from sapo_vl.lab.grids import SIZES, Cell
from sapo_vl.system.machine import prepare_environment

MAIN = CONFIGS / "train" / "main.yaml"
_overrides: list[str] = []
"""The user's `key=value` overrides, applied to every cell of this process."""

KEPT = (
    "step", "accuracy", "reward/mean", "entropy", "gate/mean", "gate/p01", "gate/active",
    "gate/mean_pos", "gate/mean_neg", "gate/below_0.5_pos", "gate/below_0.5_neg",
    "gate/max_wr_pos", "gate/max_wr_neg", "gate/gap_pos", "gate/gap_neg", "gate/bound_pos",
    "gate/bound_neg", "gate/bound_broken_pos", "gate/bound_broken_neg", "ratio/kl", "ratio/ess",
    "mismatch/kl", "mismatch/mean_abs", "grad_norm", "response/length", "groups/zero_std",
)  # fmt: skip
"""Keys of the metrics rows that result.json keeps."""

_sampler: dict[Path, Any] = {}


def start(parent: int, cores: Any, overrides: list[str]) -> None:
    """Initialise a worker: pin it to one core, and exit when the process `parent` dies."""
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    prepare_environment()
    _overrides.extend(overrides)
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # an orphan would train on without a use


def warm_up(cell: Cell, out: Path) -> None:
    """Generate the seed's data and warm up the model its cells start from; resumes if begun."""
    from sapo_vl import sft
    from sapo_vl.runs.folder import Run
    from sapo_vl.training.monitor import open_metrics
    from sapo_vl.training.setup import policy_assets

    folder = cell.warm_up(out)
    fixed = {"run.seed": cell.seed, "run.dir": folder, "model.path": "tiny"}
    config = load(MAIN, _overrides + _pairs(fixed))
    resume = (folder / "metrics.jsonl").exists()
    run = Run(config, resume=resume)
    with closing(run), open_metrics(run, resume=resume) as writer:
        sft.warm_up(run, policy_assets(run), writer)


def run_cell(cell: Cell, out: Path, steps: int) -> str:
    """Run a cell and write its result; return a one-line summary."""
    from sapo_vl.algorithm import collapse
    from sapo_vl.runs import metrics
    from sapo_vl.runs.files import write_json
    from sapo_vl.training.monitor import NonFiniteGradientError

    began = time.perf_counter()
    folder = out / "cells" / cell.name
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed attempt
    config = load(MAIN, cell_overrides(cell, out, steps))
    try:
        before, after = _train(config)
        error = None
    except NonFiniteGradientError as divergence:  # a result too
        before, after, error = math.nan, math.nan, str(divergence)
    rows = [row for row in metrics.read(config.run.dir) if row.get("phase") == "train"]
    alarm = collapse.first_alarm(
        rows, config.collapse, gated=False
    )  # one set of rules for all arms
    result = {
        "cell": cell.describe(),
        "seconds": round(time.perf_counter() - began, 1),
        "before": _finite(before),
        "after": _finite(after),
        "error": error,
        "alarm": alarm and {"rule": alarm.rule, "step": alarm.step, "message": alarm.message},
        "rows": [{key: _short(row[key]) for key in KEPT if key in row} for row in rows],
    }
    write_json(folder / "result.json", result)
    shutil.rmtree(config.run.dir)
    ended = f"ended by {error}" if error else f"{100 * before:.1f} -> {100 * after:.1f} %"
    return f"{cell.name}: {ended}, {result['seconds']:.0f} s"


def cell_overrides(cell: Cell, out: Path, steps: int) -> list[str]:
    """Return the overrides of the main job's configuration; the cell's own keys come last."""
    warm = cell.warm_up(out)
    fixed = {
        **cell.setting.overrides(),
        "run.seed": cell.seed,
        "run.dir": out / "cells" / cell.name / "run",
        "model.path": warm / "warmup" / "final",
        "data.path": next(warm.glob("data-seed*")),
        "sft.steps": 0,
        "rollout.steps": steps,
    }
    return _pairs(SIZES) + _overrides + _pairs(fixed)


def _train(config: Config) -> tuple[float, float]:
    """Train the cell; return held-out accuracy before and after training."""
    import torch

    from sapo_vl.algorithm import objectives
    from sapo_vl.generator.base import build
    from sapo_vl.runs.files import read_json
    from sapo_vl.runs.folder import Run
    from sapo_vl.system import distributed
    from sapo_vl.train import train_loop
    from sapo_vl.training.monitor import open_metrics
    from sapo_vl.training.setup import load_inputs
    from sapo_vl.training.trainer import Trainer

    distributed.init()
    torch.manual_seed(config.run.seed)
    run = Run(objectives.resolve(config), resume=False)
    path = Path(config.model.path)
    with closing(run), open_metrics(run, resume=False) as writer:
        inputs = load_inputs(run)
        if path not in _sampler:
            assert not _sampler, "one process serves one model"
            seed = config.run.seed
            _sampler[path] = build(config, inputs.assets, seed=seed, adapter=True)
        with closing(inputs.rubric):
            trainer = Trainer(run, inputs, inputs.assets, writer, generator=_sampler[path])
            trainer.restore()
            train_loop(trainer)
            after = trainer.evaluate("after")
        trainer.learner.close()
    before = read_json(run.dir / "eval" / "before.json")
    average = next(value for key, value in before.items() if key.startswith("avg@"))
    return _known(average), _known(after.avg)


def _known(share: float | None) -> float:
    """Return an accuracy; NaN where no response had a verdict."""
    return math.nan if share is None else float(share)


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in values.items()]


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
