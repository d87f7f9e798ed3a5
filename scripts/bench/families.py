"""The smoke job of every model family with vLLM, and what its exported model is worth.

    bash scripts/families.sh [FAMILY ..] [key=value ..]

A family passes if its run ends with exit code 0 and both evaluations, and if vLLM and the learner
load `final/` and agree there, within the bounds of tests/integration/test_family_engines.py. Each
run has a process of its own; the exported models are then compared in one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from helpers import ROOT, environment

from sapo_vl.model.families import FAMILIES
from sapo_vl.runs.progress import table

SMOKE = ROOT / "configs/train/smoke.yaml"
WORKER = ROOT / "tests/integration/worker_engine.py"
BOUNDS = {"float32": 1e-5, "bfloat16": 0.03}
"""Mean difference of log-probs in nats, by the engine's type."""


def train(family: str, run: Path, overrides: list[str]) -> dict[str, Any]:
    """Run the smoke job; return its summary and seconds, and `failed` where it didn't end well."""
    keys = [f"model.path=tiny:{family}", f"run.dir={run}", *overrides]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sapo_vl.cli", "train", "--config", str(SMOKE), *keys],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    row: dict[str, Any] = {"family": family, "seconds": time.monotonic() - start, "failed": ""}
    if done.returncode != 0 or not (run / "final").is_dir():
        row["failed"] = f"exit code {done.returncode}"
        print(f"{family}: {done.stdout[-1000:]}{done.stderr[-3000:]}", file=sys.stderr)
        return row
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    row["mismatch"] = max(r["mismatch/mean_abs"] for r in rows if r["phase"] == "train")
    row["evaluations"] = sum(r["phase"] == "eval" for r in rows)
    return row


def compare(rows: list[dict[str, Any]], runs: Path) -> None:
    """Add to each finished run's row what vLLM and the learner make of its final model."""
    trained = [row for row in rows if not row["failed"]]
    folders = [str(runs / row["family"] / "final") for row in trained]
    done = subprocess.run(
        [sys.executable, str(WORKER), *folders],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"comparing the final models: {done.stderr[-3000:]}")
    for row, found in zip(trained, json.loads(done.stdout.splitlines()[-1]), strict=True):
        row["dtype"], (row["gap"], row["largest"]) = found["dtype"], found["start"]
        if row["gap"] > BOUNDS[row["dtype"]] or row["evaluations"] != 2:
            row["failed"] = "DIFFERS"


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table(
        "smoke job of each family; log-probs of vLLM against the learner's, nats",
        ["family", "vLLM's type", "in training", "final/: mean", "largest", "s", ""],
        [
            [row["family"], row.get("dtype", "-")]
            + [f"{row[key]:.1e}" if key in row else "-" for key in ("mismatch", "gap", "largest")]
            + [f"{row['seconds']:.0f}", row["failed"] or "ok"]
            for row in rows
        ],
    )


def main() -> int:
    """Print the table; return 1 if a family fails."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("words", nargs="*", metavar="FAMILY or key=value")
    words = parser.parse_args().words
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word] or list(FAMILIES)
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary)
        rows = [train(name, runs / name, overrides) for name in names]
        compare(rows, runs)
    show(rows)
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
