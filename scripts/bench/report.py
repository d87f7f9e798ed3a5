"""Formats the benchmarks' results as Markdown tables."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import CASES, Case

ROOT = Path(__file__).resolve().parents[2]


def machine(device: Any = None) -> dict[str, Any]:
    """Return commit, date and a description of the machine, and of the GPU `device`, if it is."""
    import torch

    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device and device.type == "cuda" else None,
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(result: dict[str, Any], name: str, key: str) -> float:
    """Return the median over rounds of `name`'s seconds divided by ours in the same round."""
    ours, theirs = result["variants"]["shared"][key], result["variants"][name][key]
    return median(b / a for a, b in zip(ours, theirs, strict=True))


def case_lines(case: Case, result: dict[str, Any]) -> list[str]:
    """Return one line per variant of a case."""
    lines = []
    for name, values in result["variants"].items():
        peak = f"{values['peak_mb']:.0f} MB" if "peak_mb" in values else "-"
        times = ratio(result, name, "busy") if "shared" in result["variants"] else float("nan")
        used = "-" if values["flops"] is None else f"{values['flops'] / 1e9:.0f} GFLOP"
        lines.append(
            f"  {case.name:12} {name:12} {values['busy_median']:7.3f} s  {times:5.2f} x  {peak:>8}"
            f"  {used:>14}  loss {values['loss']:.8f} "
            f"grad {values['grad_norm']:.8f}"
        )
    return lines


def learner_tables(results: dict[str, Any]) -> str:
    """Return two tables: time and memory ratios by case, and our hardware utilisation."""
    ratios, use = [], []
    gpu = results["machine"].get("gpu")  # the targets are a CPU's
    for name, result in results["cases"].items():
        case, variants = CASES[name], result["variants"]
        if "shared" not in variants:
            continue
        saved = result["tokens_padded"] / result["tokens_packed"]
        for variant in [n for n in variants if n != "shared"]:
            target = f">= {case.least}" if case.least and variant == "trl" and not gpu else ""
            ratios.append(
                [
                    name,
                    variant,
                    f"{saved:.2f}",
                    f"{ratio(result, variant, 'busy'):.2f}",
                    f"{ratio(result, variant, 'wall'):.2f}",
                    target,
                    _memory(variants, variant),
                ]
            )
        use.append([name, *_utilisation(result, results["peak_gflops"])])
    clock = "GPU" if gpu else "CPU"
    columns = ["case", "variant", "tokens, padded / packed", f"{clock} time, its / ours"]
    columns += ["wall time, its / ours", "target", "peak memory, its / ours"]
    second = ["case", f"our {clock} s", "GFLOP needed", "ours / needed", "TRL / needed"]
    peak = f"{results['peak_gflops']:,.0f} GFLOP/s {results['peak_name']}"
    second += ["our GFLOP/s", f"needed, of the {peak}"]
    return markdown(columns, ratios) + "\n\n" + markdown(second, use)


def _utilisation(result: dict[str, Any], peak_gflops: float) -> list[str]:
    """Return our seconds, the operations needed and performed, and their rates.

    Performed operations are counted on a CPU only; our rate is of those, or of the needed ones.
    """
    variants, needed = result["variants"], result["flops_needed"]
    ours = variants["shared"]
    seconds, performed = ours["busy_median"], ours["flops"]
    theirs = variants.get("trl", {}).get("flops")
    return [
        f"{seconds:.3f}",
        f"{needed / 1e9:.0f}",
        "-" if performed is None else f"{performed / needed:.2f}",
        "-" if theirs is None else f"{theirs / needed:.2f}",
        f"{(performed or needed) / seconds / 1e9:.0f}",
        f"{100 * needed / seconds / 1e9 / peak_gflops:.0f} %",
    ]


def _memory(variants: dict[str, Any], variant: str) -> str:
    if "peak_mb" not in variants[variant]:
        return "-"
    theirs, ours = variants[variant]["peak_mb"], variants["shared"]["peak_mb"]
    return f"{theirs:.0f} / {ours:.0f} MB = {theirs / ours:.1f}"
