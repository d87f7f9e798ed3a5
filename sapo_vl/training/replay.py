"""A bundle's batch once more, in one process: `sapo-vl replay BUNDLE [--model M] [key=value ..]`.

The pass is the run's own (learner/examine.py): the same loss, layout and micro-batches, with this
rank's rollouts and the whole mini-batch's denominator. On the same kind of machine with the
bundle's weights the figures are equal to the last bit.

Left out: several processes (a bundle holds one rank's rollouts), and the optimizer's step.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.telemetry import UpdateReport, mismatch, mismatch_sums
from sapo_vl.config import Config, load, tiny_family
from sapo_vl.errors import ConfigError, printable
from sapo_vl.learner.engine import Learner
from sapo_vl.learner.examine import GRADIENT, Examination, examine, summary
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.runs import signals
from sapo_vl.runs.files import read_json
from sapo_vl.runs.progress import table
from sapo_vl.schema import Rollout, RolloutGroup
from sapo_vl.system import distributed
from sapo_vl.training import bundle, export
from sapo_vl.training.bundle import Manifest
from sapo_vl.training.setup import sapo_start

CLOSE = 1e-3
"""Relative difference up to which two gradient norms count as equal: another machine rounds so."""

SHOWN = 12
"""Modules in the table, the largest and the non-finite ones first."""


class Agreement(StrEnum):
    """How a pass compares with what the run recorded."""

    EXACT = "reproduced bit for bit"
    CLOSE = "reproduced within rounding"
    AGAIN = "reproduced: not finite again, with other figures"
    NOT = "not reproduced: this pass is finite"
    DIFFERENT = "not reproduced: finite as in the run, with other figures"
    OTHER = "not reproduced: this pass is not finite, the run's second pass was"
    NOTHING = "the run recorded no pass to compare with"

    @property
    def is_reproduced(self) -> bool:
        """Whether the command ends with code 0."""
        return self not in (Agreement.NOT, Agreement.DIFFERENT, Agreement.OTHER)


@dataclass(frozen=True, slots=True)
class Start:
    """Where the weights of a pass come from."""

    assets: ModelAssets
    adapter: Path | None  # of model.lora
    words: str


def main(folder: Path, model: str | None, overrides: list[str]) -> Agreement:
    """Run the batch of the bundle in `folder`; print and return how it compares.

    `model` replaces the weights by those of another folder or hub id. Raises UserError for a
    damaged bundle, a model that is gone, or wrong overrides.
    """
    manifest = bundle.read_manifest(folder)
    config = _config(folder, manifest, overrides)
    signals.start_watchdog(config.run.stall_minutes)  # the batch of a stall may hang here too
    distributed.init()
    torch.manual_seed(config.run.seed)
    with _start(folder, manifest, config, model) as start:
        _print_head(folder, manifest, start)
        adapters = config.model.lora.model_copy(update={"path": start.adapter})
        config.model = config.model.model_copy(update={"lora": adapters})
        renderer = PromptRenderer(start.assets, config.data)
        rollouts = bundle.read_rollouts(folder, renderer, on_policy=manifest.on_policy)
        rollouts = _with_reference(rollouts, config)
        objective = objectives.build(config)
        began = time.perf_counter()
        with closing(Learner(config, start.assets)) as learner:
            found = examine(learner, rollouts, objective, manifest.denominator)
    signals.stop_watchdog()
    print(f"{len(rollouts)} responses in {time.perf_counter() - began:.1f} s")
    recorded = read_json(folder / "gradients.json")
    agreement = compare(recorded, found)
    _print_findings(recorded, found)
    print(f"{agreement.value}{_doubt(agreement, manifest, start)}")
    return agreement


def _config(folder: Path, manifest: Manifest, overrides: list[str]) -> Config:
    """Return the run's config, with its folder where the bundle is now, and the overrides."""
    run_dir = folder.resolve().parent.parent
    moved = [f"run.dir={run_dir}"] if (run_dir / "config.yaml").exists() else []
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a whole autopsy: config.yaml is missing")
    config = load(path, ["learner.offload_while_sampling=false", *moved, *overrides])
    return objectives.resolve(config)


def _with_reference(rollouts: list[Rollout], config: Config) -> list[Rollout]:
    """Return the rollouts that a KL penalty can be computed on; without any, switch it off.

    Of a whole step only those that were trained on have the reference's log-probs.
    """
    if not config.algorithm.kl_coef:
        return rollouts
    kept = [rollout for rollout in rollouts if rollout.reference_logprobs is not None]
    if not kept:
        config.algorithm.kl_coef = 0.0
        print("no rollout has the reference's log-probs: algorithm.kl_coef=0 here")
    elif len(kept) < len(rollouts):
        print(f"{len(rollouts) - len(kept)} responses that were not trained on are left out")
    return kept or rollouts


@contextmanager
def _start(folder: Path, manifest: Manifest, config: Config, model: str | None) -> Iterator[Start]:
    """Open the weights: those that --model names, the bundle's, its checkpoint's, or the start's.

    A checkpoint's are put together in a temporary folder. Raises UserError where none can be had.
    """
    adapters = bool(config.model.lora.rank)
    kept = folder / manifest.weights if manifest.weights else None
    if model is not None and not adapters:
        yield Start(open_assets(model), None, f"of --model {model}")
        return
    if kept is not None and not kept.is_dir():
        advice = "put it back" if adapters else "name a folder with the weights by --model"
        raise ConfigError(f"{kept} is missing: {advice}")
    if kept is not None and not adapters:
        yield Start(open_assets(kept), None, "of the bundle: those of that moment")
        return
    saved = config.run.dir / "checkpoints" / (manifest.checkpoint or "")
    with tempfile.TemporaryDirectory(prefix="sapo-replay.") as scratch:
        out = Path(scratch) / "weights"
        if kept is not None:
            out, words = kept, "of the bundle: those of that moment"
        elif manifest.checkpoint is not None and saved.is_dir():
            export.main(config.run.dir, out, manifest.checkpoint, adapter_only=adapters)
            words = f"of checkpoint {manifest.checkpoint}: {bundle.age(manifest)}"
        else:
            if manifest.checkpoint is not None:
                print(f"warning: {saved} is gone")
            started = sapo_start(config)
            base, adapter = model or str(started.model), started.adapter
            yield Start(_opened(base), adapter, "that the run started from")
            return
        if adapters:
            yield Start(_opened(model or str(sapo_start(config).model)), out, words)
        else:
            yield Start(open_assets(out), None, words)


def _opened(path: str) -> ModelAssets:
    if tiny_family(path) is None and Path(path).is_absolute() and not Path(path).is_dir():
        raise ConfigError(f"{path} is gone: name a folder with the model by --model")
    return open_assets(path)


def _print_head(folder: Path, manifest: Manifest, start: Start) -> None:
    where = f"step {manifest.step}"
    if manifest.mini_batch is not None:
        where += f", mini-batch {manifest.mini_batch} of {manifest.mini_batches}"
    if manifest.ranks > 1:
        where += f", rank {manifest.rank} of {manifest.ranks}"
    print(f"{printable(folder)}: {manifest.cause} at {where}")
    print(f"the run: {printable(manifest.message)}")
    print(f"weights {printable(start.words)}")


def compare(recorded: Mapping[str, Any] | None, found: Examination) -> Agreement:
    """Return how a pass compares with the summary of the run's; see Agreement."""
    if recorded is None:
        return Agreement.NOTHING
    now = summary(found)
    if recorded["finite"] != found.finite:
        return Agreement.NOT if found.finite else Agreement.OTHER
    if all(recorded[key] == now[key] for key in now):
        return Agreement.EXACT
    old, new = recorded["parameter_gradient_norms"], found.norms
    if old.keys() == new.keys() and all(_is_close(float(old[n]), new[n]) for n in new):
        return Agreement.CLOSE
    return Agreement.DIFFERENT if found.finite else Agreement.AGAIN


def _is_close(old: float, new: float) -> bool:
    if not (math.isfinite(old) and math.isfinite(new)):
        return str(old) == str(new)
    return math.isclose(old, new, rel_tol=CLOSE, abs_tol=1e-12)


def _print_findings(recorded: Mapping[str, Any] | None, found: Examination) -> None:
    before = recorded or {}
    print(f"loss: {_shown(before.get('loss'))} in the run, {found.loss!r} now")
    print(f"first value that is not finite: {printable(found.culprit or 'none')}")
    for fault in found.tokens[:SHOWN]:
        what = ", ".join(q if q != GRADIENT else "its gradient" for q in fault.quantities)
        print(
            f"  record {printable(fault.record)}, response {fault.rollout}, token {fault.token}: "
            f"not finite: {what}"
        )
    for kind, mean in mismatch([mismatch_sums(_rescored(found.report))]).items():
        if kind in ("mismatch/mean_abs_text", "mismatch/mean_abs_image"):
            print(f"{kind}: {mean:.3g} nats between the sampler and this pass")
    old = before.get("gradient_norms", {})
    norms = found.by_module()
    order = sorted(norms, key=lambda m: (math.isfinite(norms[m]), -norms[m]))
    table(
        "gradient norms by module",
        ["module", "in the run", "now"],
        [[m, _shown(old.get(m)), f"{norms[m]:.6g}"] for m in order[:SHOWN]],
    )
    if order[SHOWN:]:
        print(f"and {len(order) - SHOWN} modules with smaller ones")


def _rescored(report: UpdateReport) -> list[RolloutGroup]:
    """Return a pass's groups with its own log-probs as old ones, to compare with the sampler's."""
    ends = np.cumsum([len(rollout.token_ids) for rollout in report.rollouts])
    parts = np.split(report.logprobs_T, ends)
    pairs = zip(report.rollouts, parts, strict=False)
    return bundle.groups_of([replace(rollout, old_logprobs=part) for rollout, part in pairs])


def _shown(value: float | str | None) -> str:
    return "-" if value is None else f"{float(value):.6g}"


def _doubt(agreement: Agreement, manifest: Manifest, start: Start) -> str:
    """Say why a pass that differs may differ, where it didn't have the weights of that moment."""
    if agreement is Agreement.EXACT or (manifest.weights is not None and "bundle" in start.words):
        return ""
    return f" (with weights {start.words})"
