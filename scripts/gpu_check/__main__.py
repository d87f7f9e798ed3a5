"""`bash scripts/gpu_check.sh [PART ...]`: run the parts, print one table; 1 if a check fails."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from gpu_check.outcome import FAILED, SKIPPED, Outcome, Setting, table
from gpu_check.parts import PARTS
from gpu_check.runner import NAMES, reason_to_skip, run
from sapo_vl.system.machine import gpu_count, prepare_environment

WITH_MODEL = ("learner", "zero", "offload", "engine", "ranks", "tp")
"""Parts that use the four-layer model."""


def main(argv: list[str] | None = None) -> int:
    """Run the parts named in `argv`, or all; return the exit code."""
    arguments = _parse(argv)
    if arguments.list:
        print("\n".join(f"{name:10} {part.what}" for name, part in PARTS.items()))
        return 0
    device = arguments.device or ("cuda" if gpu_count() else "cpu")
    if device == "cuda" and not gpu_count():
        print("gpu_check.sh: nvidia-smi lists no GPU; --device cpu runs what needs none")
        return 2
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        gpu_count.cache_clear()
    os.environ["HF_HUB_OFFLINE"] = "1"
    prepare_environment()
    if device == "cpu":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    modules = frozenset(name for name in NAMES if find_spec(name) is not None)
    outcomes: list[tuple[str, Outcome]] = []
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(device, gpu_count(), Path(folder), modules)
        todo = {}
        for name in arguments.parts or PARTS:
            reason = reason_to_skip(PARTS[name], setting, named=bool(arguments.parts))
            if reason is None:
                todo[name] = PARTS[name]
            else:
                outcomes.append((name, Outcome(PARTS[name].what, SKIPPED, reason)))
        if any(name in WITH_MODEL for name in todo):
            _build_model(setting)
        for name, part in todo.items():
            outcomes += [(name, outcome) for outcome in run(name, part, setting)]
    order = list(PARTS)
    outcomes.sort(key=lambda row: order.index(row[0]))
    text = f"{environment(device)}\n\n{table(outcomes)}"
    print(text, flush=True)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return int(any(outcome.result == FAILED for _, outcome in outcomes))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_check.sh",
        description="Check on a GPU what a CPU can't show, with random models. Without parts: all.",
        epilog="--python PATH uses this interpreter's packages as they are; nothing is installed.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--list", action="store_true", help="list the parts and exit")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="cpu: small shapes, and only what needs no GPU (default: the GPU, where there is one)",
    )
    parser.add_argument("--out", type=Path, help="file for the table")
    arguments = parser.parse_args(argv)
    for name in arguments.parts:
        if name not in PARTS:
            parser.error(f"{name} is none of {', '.join(PARTS)}")
    return arguments


def _build_model(setting: Setting) -> None:
    """Write the four-layer model; on the CPU, since this process must leave the GPU alone."""
    import torch
    from bench import random_model

    random_model.build(setting.folder / "model", random_model.FOUR_LAYERS, torch.device("cpu"))


def environment(device: str) -> str:
    """Return one line: the device and its driver, versions, commit."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    parts = [device]
    if device == "cuda":
        listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        parts = [", driver ".join(row.split(", ")) for row in listing.strip().splitlines()]
    parts.append(f"python {sys.version.split()[0]}")
    parts += [f"{name} {_version(name)}" for name in ("torch", "transformers", *NAMES)]
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return "; ".join([*parts, f"commit {commit or 'unknown'}"])


def _version(name: str) -> str:
    for distribution in (name, f"{name}-cpu", f"{name}-core"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "not installed"


if __name__ == "__main__":
    sys.exit(main())
