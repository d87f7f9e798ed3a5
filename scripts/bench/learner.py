"""The policy update against TRL: `bash scripts/bench_learner.sh [--cases g8,g8-real] [--json OUT]`.

Forward, SAPO loss and backward on identical batches, the variants of variants.py in turns. On a CPU
in float32, on one thread and in one process per case; peak memory is that of the first step in a
fresh process per variant, above model and batch. On a GPU in bfloat16. The benchmark fails if
losses or gradient norms differ. Without TRL its variants are left out. The hybrid cases, whose
model has gated delta nets, compare our two layouts.

Left out: the optimizer (the same for all) and models of real size (see real_size.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from bench import report
from bench.cases import CASES, REAL_VOCABULARY, Case, build_model, build_rollouts, no_bans
from sapo_vl.schema import Rollout
from sapo_vl.system.machine import prepare_environment

AGREE = {"cpu": 2e-5, "cuda": 3e-2}
"""Relative tolerance of losses and gradient norms: rounding of float32 sums, and of bfloat16."""

OLD_NOISE = 0.3
"""Standard deviation of log r, so that the gate is active on both sides of 1."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its tables and write the JSON file."""
    arguments = _parse(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_environment()
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM")
    import torch

    # Imported before the forks, so that a run measures one state of the code.
    from bench import measure, needs, variants  # noqa: F401

    device = measure.choose_device(arguments.device)
    has_trl = variants.has_trl()
    if has_trl:
        import trl.trainer.grpo_trainer  # noqa: F401
    else:
        print("TRL is not installed: its variants are left out", file=sys.stderr, flush=True)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    peak_rate, rate_name = measure.peak_gflops(device, arguments.peak_tflops)
    results: dict[str, Any] = {
        "machine": report.machine(device),
        "peak_gflops": peak_rate,
        "peak_name": rate_name,
        "vision_width": arguments.vision_width,
        "cases": {},
    }
    for name in arguments.cases:
        case = CASES[name]
        names = arguments.variants or _default_variants(case)
        names = [variant for variant in names if has_trl or not variant.startswith("trl")]
        print(f"{name}: {', '.join(names)} ...", file=sys.stderr, flush=True)
        batch = Batch(case, tiny_assets(case.family), arguments.vision_width, device)
        batch.old = measure.isolated(_old_logprobs, batch, device=device)
        result = measure.isolated(_times, batch, names, arguments.repeats, device=device)
        if not arguments.no_memory:
            for variant in names:
                used = measure.isolated(peak, batch, variant, device=device)
                result["variants"][variant]["peak_mb"] = used
        result["load"] = measure.load_average()
        results["cases"][name] = result
        print("\n".join(report.case_lines(case, result)), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n" + report.learner_tables(results), flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    from bench.variants import VARIANTS

    def names(known: Any) -> Any:
        def parse(text: str) -> list[str]:
            wrong = [name for name in text.split(",") if name not in known]
            if wrong:
                raise argparse.ArgumentTypeError(f"{wrong[0]} is none of {', '.join(known)}")
            return text.split(",")

        return parse

    parser = argparse.ArgumentParser(prog="bench_learner.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=names(CASES), default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--variants", type=names(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument(
        "--vision-width",
        type=int,
        default=256,
        help="width of the vision tower: 256 or 128 (see cases.py)",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed steps per variant (default: 5)"
    )
    add_device_arguments(parser)
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory")
    parser.add_argument("--json", type=Path, help="output file for all results")
    return parser.parse_args(argv)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --device and --peak-tflops."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: the GPU, where there is one"
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        help="rate that utilisation is measured against (default: the card's, or that of a GEMM)",
    )


def _default_variants(case: Case) -> list[str]:
    if case.family != "qwen3_vl":  # our own padded layout is what the others are compared with
        return ["shared", "padded"]
    heads = ["trl-compact", "trl-logits"] if case.vocabulary == REAL_VOCABULARY else []
    return ["shared", "padded", "trl", *heads]


@cache
def tiny_assets(family: str = "qwen3_vl") -> Any:
    """Return a tiny model's tokenizer and processor, built in a temporary folder."""
    from sapo_vl.data import synthetic
    from sapo_vl.model import tiny
    from sapo_vl.model.assets import open_assets

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny"
        tiny.build(path, corpus=synthetic.corpus(0, 400), seed=0, family=family)
        return no_bans(open_assets(path))


@dataclass(slots=True)
class Batch:
    """Recipe of a batch; each measuring process builds model and rollouts from it."""

    case: Case
    assets: Any
    vision_width: int
    device: Any  # torch.device
    old: list[Any] | None = None  # log-probs of each rollout

    def build(self) -> tuple[Any, list[Rollout]]:
        """Return model and rollouts."""
        rollouts = build_rollouts(self.case, self.assets)
        for rollout, values in zip(rollouts, self.old or [None] * len(rollouts), strict=True):
            rollout.old_logprobs = values
        model = build_model(self.assets, self.case.vocabulary, self.vision_width, self.device)
        return model, rollouts


def _old_logprobs(batch: Batch) -> list[Any]:
    """Return each rollout's old log-probs: the model's plus noise, so that r differs from 1."""
    import numpy as np
    import torch

    from sapo_vl.learner.policy import Policy

    model, rollouts = batch.build()
    with torch.no_grad():
        policy = Policy(model, batch.assets, 1.0, "shared_prefix")
        values = policy(rollouts).out.logprobs_N.cpu().numpy()
    noise = np.random.default_rng(1).normal(scale=OLD_NOISE, size=len(values))
    ends = np.cumsum([len(rollout.token_ids) for rollout in rollouts])[:-1]
    return np.split((values + noise).astype(np.float32), ends)


def _times(batch: Batch, names: list[str], repeats: int) -> dict[str, Any]:
    """Time the variants in turns; return seconds, operations, tokens. Raises if they disagree."""
    from bench import measure, needs
    from bench.variants import build

    model, rollouts = batch.build()
    built = {n: build(n, model, batch.assets, batch.case, rollouts) for n in names}
    losses, norms, used = {}, {}, {}
    for name, variant in built.items():  # also the warm-up
        # Under the counter, FlexAttention would not be compiled.
        on_cpu = batch.device.type == "cpu"
        used[name], losses[name] = measure.flops(variant.run) if on_cpu else (None, variant.run())
        norms[name] = variant.grad_norm()
        variant.model.zero_grad(set_to_none=True)
    _check(losses, "losses", AGREE[batch.device.type])
    _check(norms, "gradient norms", AGREE[batch.device.type])
    seconds: dict[str, list[measure.Seconds]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, variant in built.items():
            seconds[name].append(measure.timed(variant.run, batch.device))
            variant.model.zero_grad(set_to_none=True)
    packed, padded = needs.tokens(rollouts)
    variants = {
        name: {
            "loss": losses[name],
            "grad_norm": norms[name],
            "flops": used[name],
            "busy": [s.busy for s in seconds[name]],
            "wall": [s.wall for s in seconds[name]],
            "busy_median": median(s.busy for s in seconds[name]),
        }
        for name in names
    }
    return {
        "variants": variants,
        "tokens_packed": packed,
        "tokens_padded": padded,
        "flops_needed": needs.flops(model, rollouts),
    }


def peak(batch: Batch, name: str) -> float:
    """Return the peak memory of a variant's first step, in MB above model and batch."""
    from bench import measure
    from bench.variants import build

    model, rollouts = batch.build()
    variant = build(name, model, batch.assets, batch.case, rollouts)
    return measure.peak_memory(variant.run, batch.device)


def _check(values: dict[str, float], what: str, tolerance: float) -> None:
    """Raise RuntimeError if a value differs from the first by more than `tolerance`, relatively."""
    reference = next(iter(values.values()))
    for name, value in values.items():
        if not abs(value - reference) <= tolerance * abs(reference):
            raise RuntimeError(f"{what} differ: {name} has {value!r}, not {reference!r}: {values}")


if __name__ == "__main__":
    main()
