"""Whole programs: the smoke run in bfloat16, and the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_check.outcome import OK, Outcome, Setting, last_error

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 540

BENCH = {
    "cpu": "--shape four-layers --prompts 2 --group 2 --response 8 --image 4 --budgets 64",
    "cuda": "--shape Qwen3-VL-2B --budgets 16384",
}
"""The benchmark's options."""


def check_smoke(setting: Setting) -> Iterator[Outcome]:
    """Run two steps of the main job: warm-up, rollouts, updates, evaluation, export."""
    run = setting.folder / "smoke"
    command = ["-m", "sapo_vl.cli", "train", "--config", ROOT / "configs" / "train" / "smoke.yaml"]
    overrides = [f"run.dir={run}"]
    if setting.device == "cuda":
        overrides += ["model.dtype=bfloat16", "learner.zero_stage=2"]
        overrides += ["generator.parity_stop=0.05"]
    sampler = "vLLM"
    if "vllm" not in setting.modules:
        sampler = "transformers, as vLLM is not installed"
        overrides += ["generator.backend=transformers"]
    started = time.perf_counter()
    _run([*command, *overrides])
    figures: dict[str, Any] = {"seconds": time.perf_counter() - started}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["phase"] == "train"]
    if len(steps) != 2:
        raise RuntimeError(f"{len(steps)} steps instead of 2 in {run / 'metrics.jsonl'}")
    for name in ("mismatch/mean_abs", "mismatch/max_abs"):
        if name in steps[-1]:
            figures[name] = steps[-1][name]
    yield Outcome(f"smoke run, sampled with {sampler}", OK, "", figures)


def check_bench(setting: Setting) -> Iterator[Outcome]:
    """Run the benchmark at one size; each row of its table is an outcome."""
    out = setting.folder / "bench.json"
    command = ["-m", "bench.real_size", "--device", setting.device, "--json", out]
    _run([*command, *BENCH[setting.device].split()])
    for row in json.loads(out.read_text(encoding="utf-8"))["rows"]:
        yield Outcome(row["what"], row["result"], row["note"], row["figures"])


def _run(arguments: list[Any]) -> None:
    """Run Python with arguments. Raises RuntimeError with its last lines when it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[1]}: {last_error(done.stdout)}\n{done.stdout[-8000:]}")
