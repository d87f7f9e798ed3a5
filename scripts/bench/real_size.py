"""The learner at real size on one device: `bash scripts/bench_learner.sh --shape Qwen3-VL-2B`.

Random weights in a published shape, the vision tower frozen as in the shipped configs, bfloat16 on
a GPU. Each row is one way to take the same mini-batch: this learner by ZeRO stage, activation
checkpointing and token budget of a micro-batch; its padded layout; TRL's `compute_loss` in
micro-batches of at most as many padded tokens. Seconds are medians after one call that doesn't
count. Utilisation counts what the batch needs (needs.py) in forward and backward, for all alike.

Left out: the rollout; TRL's optimizer, and with it a comparison of whole updates.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import report
from bench.cases import Case, build_rollouts, no_bans
from bench.learner import add_device_arguments
from sapo_vl.schema import Rollout
from sapo_vl.system.machine import prepare_environment

TEXT_TOKENS = 90
"""Tokens of a prompt besides its picture."""

FIGURES = (
    ("old log-probs s", ".2f"),
    ("forward and backward s", ".2f"),
    ("optimizer s", ".2f"),
    ("packed tokens/s", ",.0f"),
    ("utilisation %", ".1f"),
    ("peak GiB", ".1f"),
    ("time, its / ours", ".2f"),
)
"""Columns of the table, with their formats."""


@dataclass(slots=True)
class Way:
    """One row: how the mini-batch is taken."""

    variant: str  # shared, padded or trl
    budget: int  # tokens of a micro-batch
    checkpointing: str  # none, alternate or all
    zero: int  # ZeRO stage; TRL's row has none
    attention: str = "auto"  # learner.attention, of the shared-prefix layout

    @property
    def name(self) -> str:
        """The row's first column."""
        zero = "" if self.variant == "trl" else f", ZeRO-{self.zero}"
        form = "" if self.attention == "auto" else f", {self.attention}"
        kind = f"checkpointing {self.checkpointing}"
        return f"{self.variant}, {self.budget:,} tokens, {kind}{zero}{form}"


@dataclass(slots=True)
class Setting:
    """What all rows share."""

    device: Any  # torch.device
    assets: Any  # of the random model
    case: Case
    needed: float  # operations
    peak_gflops: float
    repeats: int
    profiles: Path | None  # folder for the profiler's tables


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write the JSON file."""
    arguments = _parse(argv)
    prepare_environment()
    import torch

    from bench import measure, random_model, variants

    device = measure.choose_device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    peak, peak_name = measure.peak_gflops(device, arguments.peak_tflops)
    image, response = arguments.image, arguments.response
    case = Case(
        "real", arguments.group, image, image + TEXT_TOKENS, response, response * 3 // 2,
        prompts=arguments.prompts,
    )  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        assets = no_bans(random_model.build(Path(folder) / "model", arguments.shape, device))
        rollouts = build_rollouts(case, assets)
        needed = _needed(assets, rollouts)
        setting = Setting(
            device, assets, case, needed, peak, arguments.repeats, arguments.profiles
        )  # fmt: skip
        for way in _ways(arguments):
            print(f"{way.name} ...", file=sys.stderr, flush=True)
            row = _measure(setting, way, variants.has_trl())
            _compare(rows, way, row)
            rows[way.name] = row
            if arguments.json is not None:
                _write(arguments, rows, device, peak, peak_name)
    print(f"utilisation of {peak:,.0f} GFLOP/s {peak_name}; {_batch_line(case, rollouts)}\n")
    print(table(list(rows.values())), flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    from bench.random_model import NAMES

    def of(known: tuple[Any, ...] | None, kind: Callable[[str], Any]) -> Any:
        def parse(text: str) -> list[Any]:
            values = [kind(value) for value in text.split(",")]
            for value in values:
                if known is not None and value not in known:
                    raise argparse.ArgumentTypeError(f"{value} is none of {known}")
            return values

        return parse

    parser = argparse.ArgumentParser(
        prog="bench_learner.sh --shape", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--shape", choices=NAMES, required=True, help="the model's size")
    kinds = ("none", "alternate", "all")
    variants = ("shared", "padded", "trl")
    add("--budgets", type=of(None, int), default=[8192, 16_384, 32_768], help="micro-batch tokens")
    add("--checkpointing", type=of(kinds, str), default=["none"], help=", ".join(kinds))
    add("--zero", type=of((0, 1, 2, 3), int), default=[2], help="ZeRO stages, of one rank")
    forms = ("auto", "flex", "varlen")
    add("--attention", type=of(forms, str), default=["auto"], help="learner.attention, on a GPU")
    add("--variants", type=of(variants, str), default=[*variants], help=", ".join(variants))
    add("--prompts", type=int, default=8, help="prompts of the mini-batch (default: 8)")
    add("--group", type=int, default=8, help="responses to each (default: 8)")
    add("--response", type=int, default=500, help="mean tokens of a response (default: 500)")
    add("--image", type=int, default=1024, help="tokens of a picture, a square (default: 1024)")
    add("--repeats", type=int, default=3, help="timed calls (default: 3)")
    add("--profiles", type=Path, help="folder for torch.profiler's table of each of our rows")
    add("--json", type=Path, help="output file for all results")
    add_device_arguments(parser)
    arguments = parser.parse_args(argv)
    if int(arguments.image**0.5) ** 2 != arguments.image:
        parser.error(f"--image {arguments.image} is no square number")
    return arguments


def _ways(arguments: argparse.Namespace) -> Iterator[Way]:
    """Yield the rows: each variant for each budget and kind, ours by ZeRO stage and attention."""
    for kind, budget in itertools.product(arguments.checkpointing, arguments.budgets):
        for variant in arguments.variants:
            if variant == "shared":
                for zero, form in itertools.product(arguments.zero, arguments.attention):
                    yield Way(variant, budget, kind, zero, form)
            else:
                yield Way(variant, budget, kind, arguments.zero[0])


def _measure(setting: Setting, way: Way, has_trl: bool) -> dict[str, Any]:
    """Return a row of the JSON file; a peer that doesn't fit is skipped with that reason."""
    import torch

    row = {"what": way.name, "result": "ok", "note": "", "figures": {}}
    if way.variant == "trl" and not has_trl:
        return row | {"result": "skipped", "note": "TRL is not installed"}
    if way.variant == "trl" and way.checkpointing == "alternate":
        return row | {"result": "skipped", "note": "TRL checkpoints all layers or none"}
    if setting.device.type == "cuda":
        from bench import measure

        gc.collect()
        measure.reset_peak()
    try:
        figures = _trl(setting, way) if way.variant == "trl" else _ours(setting, way)
    except torch.OutOfMemoryError:
        lost = "FAILED" if way.variant == "shared" else "skipped"
        row |= {"result": lost, "note": "out of GPU memory"}
    else:
        row["figures"] = figures | _rates(setting, figures)
    gc.collect()
    return row


def _ours(setting: Setting, way: Way) -> dict[str, float]:
    """Measure this learner: old log-probs, and updates with the optimizer apart."""
    from bench import measure
    from sapo_vl import config as configs
    from sapo_vl.algorithm import objectives
    from sapo_vl.learner.engine import Learner

    layout = {"shared": "shared_prefix", "padded": "padded"}[way.variant]
    config = configs.load(
        None,
        [
            f"model.path={setting.assets.path}",
            f"run.dir={Path(setting.assets.path).parent / 'run'}",
            f"model.dtype={_dtype(setting)}",
            "model.freeze=[vision]",
            f"model.gradient_checkpointing={way.checkpointing}",
            f"learner.layout={layout}",
            f"learner.attention={way.attention}",
            f"learner.zero_stage={way.zero}",
            f"learner.micro_batch_tokens={way.budget}",
        ],
    )
    learner = Learner(config, setting.assets)
    try:
        rollouts = _rollouts(setting)
        objective = objectives.build(config)
        optimizer: list[float] = []
        step = learner._engine.step
        learner._engine.step = lambda: optimizer.append(measure.timed(step, setting.device).busy)
        old = _median(setting, lambda: learner.fill_old_logprobs(rollouts))
        update = _median(setting, lambda: learner.update(rollouts, objective, 1e-6))
        if setting.profiles is not None:
            _profile(setting, way, lambda: learner.update(rollouts, objective, 1e-6))
    finally:
        learner.close()
    last = median(optimizer[1 : setting.repeats + 1])
    return {
        "old log-probs s": old,
        "forward and backward s": update - last,
        "optimizer s": last,
    }


def _trl(setting: Setting, way: Way) -> dict[str, float]:
    """Measure TRL's loss and its gradients on the same rollouts, in padded micro-batches."""
    from bench import needs, variants
    from sapo_vl.model.weights import freeze, load_weights

    rollouts = _rollouts(setting)
    for rollout in rollouts:
        rollout.old_logprobs = rollout.generator_logprobs
    model = load_weights(setting.assets, _dtype(setting)).to(setting.device)
    freeze(model, ["vision"])
    if way.checkpointing == "all":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = variants.trl_trainer(model, setting.assets, setting.case, len(rollouts))
    rows = max(1, way.budget * len(rollouts) // needs.tokens(rollouts)[1])
    parts = [rollouts[i : i + rows] for i in range(0, len(rollouts), rows)]
    batches = [variants.trl_batch(part, setting.assets, setting.device) for part in parts]
    trainer.current_gradient_accumulation_steps = len(batches)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        for batch in batches:
            trainer.compute_loss(trainer.model, batch).backward()

    return {"forward and backward s": _median(setting, step)}


def _median(setting: Setting, work: Callable[[], Any]) -> float:
    from bench import measure

    work()
    return median(measure.timed(work, setting.device).busy for _ in range(setting.repeats))


def _rates(setting: Setting, figures: dict[str, float]) -> dict[str, float]:
    """Return tokens per second, utilisation and, on a GPU, the peak since the row began."""
    import torch

    from bench import needs

    seconds = figures["forward and backward s"]
    packed, _ = needs.tokens(build_rollouts(setting.case, setting.assets))
    rates = {
        "packed tokens/s": packed / seconds,
        "utilisation %": 100 * setting.needed / seconds / 1e9 / setting.peak_gflops,
    }
    if setting.device.type == "cuda":
        rates["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return rates


def _needed(assets: Any, rollouts: list[Rollout]) -> float:
    """Return the operations of forward and backward, from the shapes alone."""
    import torch
    from transformers import AutoModelForImageTextToText

    from bench import needs

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(assets.config)
    return needs.flops(model, rollouts, vision_trained=False)


def _compare(rows: dict[str, dict[str, Any]], way: Way, row: dict[str, Any]) -> None:
    """Add a peer's time relative to ours with the same budget and checkpointing, if it is there."""
    key = "forward and backward s"
    same = [row["what"] for row in rows.values() if row["what"].startswith("shared, ")]
    wanted = Way("shared", way.budget, way.checkpointing, way.zero).name
    ours = next((rows[name] for name in same if name.startswith(wanted)), None)
    if way.variant != "shared" and ours is not None:
        seconds = [found["figures"].get(key) for found in (ours, row)]
        if None not in seconds:
            row["figures"]["time, its / ours"] = seconds[1] / seconds[0]


def _profile(setting: Setting, way: Way, work: Callable[[], Any]) -> None:
    """Write the profiler's table of one call, where the time goes by operator."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = setting.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as found:
        work()
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    text = found.key_averages().table(sort_by=key, row_limit=40)
    assert setting.profiles is not None
    setting.profiles.mkdir(parents=True, exist_ok=True)
    name = f"{way.variant}-{way.budget}-{way.checkpointing}-zero{way.zero}-{way.attention}.txt"
    (setting.profiles / name).write_text(text, encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of the JSON file as a Markdown table."""
    lines = []
    for row in rows:
        figures = row["figures"]
        shown = [f"{figures[name]:{form}}" if name in figures else "-" for name, form in FIGURES]
        lines.append([row["what"], *shown, row["note"]])
    return report.markdown(["", *(name for name, _ in FIGURES), "note"], lines)


def _batch_line(case: Case, rollouts: list[Rollout]) -> str:
    from bench import needs

    packed, padded = needs.tokens(rollouts)
    return (
        f"{case.prompts} prompts of {case.prompt} tokens, {case.group} responses of "
        f"{min(case.lengths())} to {case.longest}: {packed:,} tokens packed, {padded:,} padded"
    )


def _write(
    arguments: argparse.Namespace, rows: dict[str, Any], device: Any, peak: float, name: str
) -> None:
    """Write what has been measured so far."""
    known = {k: v for k, v in vars(arguments).items() if k not in ("json", "profiles")}
    result = {
        "machine": report.machine(device),
        "options": known,
        "peak_gflops": peak,
        "peak_name": name,
        "rows": list(rows.values()),
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _dtype(setting: Setting) -> str:
    return "bfloat16" if setting.device.type == "cuda" else "float32"


def _rollouts(setting: Setting) -> list[Rollout]:
    """Return the mini-batch, with a uniform sampler's log-probs."""
    import numpy as np

    rollouts = build_rollouts(setting.case, setting.assets)
    vocabulary = setting.assets.config.text_config.vocab_size
    for rollout in rollouts:
        length = len(rollout.token_ids)
        rollout.generator_logprobs = np.full(length, -np.log(vocabulary), np.float32)
    return rollouts


if __name__ == "__main__":
    main()
