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


def machine() -> dict[str, Any]:
    """Return commit, date and a description of the machine."""
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
    """Return the median over rounds of `name`'s seconds divided by ours in the same round."""
    ours, theirs = result["variants"]["shared"][key], result["variants"][name][key]
    return median(b / a for a, b in zip(ours, theirs, strict=True))


def case_lines(case: Case, result: dict[str, Any]) -> list[str]:
    """Return one line per variant of a case."""
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
    """Return two tables: time and memory ratios by case, and our hardware utilisation."""
    ratios, use = [], []
    for name, result in results["cases"].items():
        case, variants = CASES[name], result["variants"]
        if "shared" not in variants:
            continue
        saved = result["tokens_padded"] / result["tokens_packed"]
        for variant in [n for n in variants if n != "shared"]:
            target = f">= {case.least}" if case.least and variant == "trl" else ""
            ratios.append(
                [
                    name,
                    variant,
                    f"{saved:.2f}",
                    f"{ratio(result, variant, 'cpu'):.2f}",
                    f"{ratio(result, variant, 'wall'):.2f}",
                    target,
                    _memory(variants, variant),
                ]
            )
        ours = variants["shared"]
        rate = results["gemm_gflops"]
        needed = result["flops_needed"]
        use.append(
            [
                name,
                f"{ours['cpu_median']:.3f}",
                f"{needed / 1e9:.0f}",
                f"{ours['flops'] / needed:.2f}",
                f"{variants['trl']['flops'] / needed:.2f}" if "trl" in variants else "-",
                f"{ours['flops'] / ours['cpu_median'] / 1e9:.0f}",
                f"{100 * needed / ours['cpu_median'] / 1e9 / rate:.0f} %",
            ]
        )
    columns = ["case", "variant", "tokens, padded / packed", "CPU time, its / ours"]
    columns += ["wall time, its / ours", "target", "peak memory, its / ours"]
    second = ["case", "our CPU s", "GFLOP needed", "ours / needed", "TRL / needed", "our GFLOP/s"]
    second += [f"needed, of the {results['gemm_gflops']:.0f} GFLOP/s of a GEMM"]
    return markdown(columns, ratios) + "\n\n" + markdown(second, use)


def _memory(variants: dict[str, Any], variant: str) -> str:
    if "peak_mb" not in variants[variant]:
        return "-"
    theirs, ours = variants[variant]["peak_mb"], variants["shared"]["peak_mb"]
    return f"{theirs:.0f} / {ours:.0f} MB = {theirs / ours:.1f}"
