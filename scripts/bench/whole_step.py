"""A whole training step against TRL: `bash scripts/bench_learner.sh --whole-step`.

Both toolkits train the tiny model (or `--model FOLDER`) on the same prompts and images with the
same group size, response limit and number of optimizer steps. Each runs in its own process, and
they alternate step by step. Ours is the main job's step: vLLM rollout, verification, SAPO update,
weight sync. TRL's is its GRPOTrainer with loss_type sapo in float32, without gradient checkpointing
and with transformers' generation. Both call the same verifiers, and both then get a reward that is
a coin flip on the response's text, so that every group has a gradient.

Left out: each toolkit's first step, which includes warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import report
from bench.pace import MARK
from sapo_vl.system.machine import prepare_environment

PHASES = ("prepare", "generate", "verify", "old_logprobs", "update", "sync")
TOOLKITS = {"ours": "bench.step_ours", "trl": "bench.step_trl"}
"""Toolkit -> the module of its process."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write the JSON file."""
    arguments = _parse(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        options = vars(arguments) | {"work_dir": folder}
        options["model"] = str(arguments.model or _tiny(Path(folder)))
        options["json"] = str(arguments.json)
        children = {name: Child(module, options) for name, module in TOOLKITS.items()}
        for name, child in children.items():
            child.wait()
            print(f"{name} is ready", file=sys.stderr, flush=True)
        steps: dict[str, list[dict[str, Any]]] = {name: [] for name in TOOLKITS}
        for number in range(arguments.steps):
            for name, child in children.items():
                child.go()
                steps[name].append(child.wait())
                seconds = sum(steps[name][-1]["wall"].values())
                print(f"step {number} {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
        for child in children.values():
            child.close()
    results = {
        "machine": report.machine(),
        "options": {k: v for k, v in options.items() if k not in ("work_dir", "json")},
        "load": os.getloadavg()[0],
        "steps": steps,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(steps), flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_learner.sh --whole-step", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", type=Path, help="model folder (default: a new tiny one)")
    parser.add_argument("--steps", type=int, default=6, help="the first is not counted")
    parser.add_argument("--prompts", type=int, default=64, help="prompts per step")
    parser.add_argument("--group", type=int, default=8, help="responses per prompt, G")
    parser.add_argument("--max-new-tokens", type=int, default=24, help="longest response")
    parser.add_argument(
        "--mini-batches", type=int, default=4, help="optimizer steps per rollout batch"
    )
    parser.add_argument("--json", type=Path, help="output file for all results")
    return parser.parse_args(argv)


def _tiny(folder: Path) -> Path:
    from sapo_vl.data import synthetic
    from sapo_vl.model import tiny
    from sapo_vl.training.setup import TOKENIZER_TEXTS

    tiny.build(folder / "tiny", corpus=synthetic.corpus(0, TOKENIZER_TEXTS), seed=0)
    return folder / "tiny"


class Child:
    """A toolkit's process, which sends a line when it is ready and after each step."""

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        """Start the process; it gets the options as JSON."""
        self._module = module
        command = [sys.executable, "-W", "ignore", "-m", module, json.dumps(options, default=str)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def go(self) -> None:
        """Signal the next step."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def wait(self) -> dict[str, Any]:
        """Return the next message. Raises RuntimeError if the process has exited."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError(f"{self._module} ended with code {self._process.wait()}")

    def close(self) -> None:
        """Wait for the process to exit."""
        self._process.communicate()


def table(steps: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of phases: medians over the steps after the first."""
    counted = {name: measured[1:] or measured for name, measured in steps.items()}

    def median_of(name: str, clock: str, phase: str | None) -> float:
        values = [s[clock] for s in counted[name]]
        return median(sum(v.values()) if phase is None else v.get(phase, 0.0) for v in values)

    rows = []
    for phase in (*PHASES, None):
        ours, theirs = (median_of(name, "wall", phase) for name in TOOLKITS)
        cpu = [f"{median_of(name, 'cpu', phase):.2f}" for name in TOOLKITS]
        times = f"{theirs / ours:.2f}" if ours > 0 else "-"
        rows.append([phase or "whole step", f"{ours:.2f}", f"{theirs:.2f}", times, *cpu])
    for what, digits in (("tokens", 0), ("mean_length", 1), ("updates", 0)):
        values = [median(s[what] for s in counted[name]) for name in TOOLKITS]
        rows.append([what.replace("_", " "), *[f"{v:,.{digits}f}" for v in values], "", "", ""])
    rates = [
        median(s["tokens"] / s["wall"]["generate"] for s in counted[name]) for name in TOOLKITS
    ]
    shown = [f"{r:,.0f}" for r in rates]
    rows.append(["generated tokens/s", *shown, f"{rates[0] / rates[1]:.2f}", "", ""])
    columns = ["phase", "ours, s", "TRL, s", "TRL / ours", "ours, CPU s", "TRL, CPU s"]
    return report.markdown(columns, rows)


if __name__ == "__main__":
    main()
