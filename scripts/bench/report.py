"""The benchmark's figures as Markdown."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import CASES, Case

ROOT = Path(__file__).resolve().parents[2]


def machine() -> dict[str, Any]:
    """Return commit, date and what the machine is."""
    import os

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
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(result: dict[str, Any], name: str, key: str) -> float:
    """Return the median over rounds of `name`'s seconds over ours in the same round."""
    own, other = result["variants"]["shared"][key], result["variants"][name][key]
    return median(b / a for a, b in zip(own, other, strict=True))


def case_lines(case: Case, result: dict[str, Any]) -> list[str]:
    """Return a line per contestant of one case."""
    lines = []
    for name, values in result["variants"].items():
        peak = f"{values['peak_mb']:.0f} MB" if "peak_mb" in values else "-"
        cpu = ratio(result, name, "cpu") if "shared" in result["variants"] else float("nan")
        lines.append(
            f"  {case.name:12} {name:12} {values['cpu_median']:7.3f} s  {cpu:5.2f} x  {peak:>8}  "
            f"{values['flops'] / 1e9:8.0f} GFLOP  loss {values['loss']:.8f} "
            f"grad {values['grad_norm']:.8f}"
        )
    return lines


def learner_tables(results: dict[str, Any]) -> str:
    """Return the ratios of every case, and our use of the machine."""
    ratios, use = [], []
    for name, result in results["cases"].items():
        case, variants = CASES[name], result["variants"]
        if "shared" not in variants:
            continue
        saved = result["tokens_padded"] / result["tokens_packed"]
        for other in [n for n in variants if n != "shared"]:
            wanted = f">= {case.least}" if case.least and other == "trl" else ""
            ratios.append(
                [
                    name,
                    other,
                    f"{saved:.2f}",
                    f"{ratio(result, other, 'cpu'):.2f}",
                    f"{ratio(result, other, 'wall'):.2f}",
                    wanted,
                    _memory(variants, other),
                ]
            )
        own = variants["shared"]
        rate = results["gemm_gflops"]
        needed = result["flops_needed"]
        use.append(
            [
                name,
                f"{own['cpu_median']:.3f}",
                f"{needed / 1e9:.0f}",
                f"{own['flops'] / needed:.2f}",
                f"{variants['trl']['flops'] / needed:.2f}" if "trl" in variants else "-",
                f"{own['flops'] / own['cpu_median'] / 1e9:.0f}",
                f"{100 * needed / own['cpu_median'] / 1e9 / rate:.0f} %",
            ]
        )
    columns = ["case", "against", "tokens, padded / packed", "CPU time, it / ours"]
    columns += ["wall time, it / ours", "wanted", "peak memory, it / ours"]
    second = ["case", "our CPU s", "GFLOP needed", "ours / needed", "TRL / needed", "our GFLOP/s"]
    second += [f"needed, of the {results['gemm_gflops']:.0f} GFLOP/s of a GEMM"]
    return markdown(columns, ratios) + "\n\n" + markdown(second, use)


def _memory(variants: dict[str, Any], other: str) -> str:
    if "peak_mb" not in variants[other]:
        return "-"
    theirs, ours = variants[other]["peak_mb"], variants["shared"]["peak_mb"]
    return f"{theirs:.0f} / {ours:.0f} MB = {theirs / ours:.1f}"
