"""Seconds of a training step by phase, and accuracy before and after, of finished runs.

    PYTHONPATH=scripts python -m bench.run_steps RUN [RUN ..]

Medians over the steps after the first five. `step` is the sum of the phases that follow each other:
waiting for rollouts, old log-probs, update, sync. `sampling` goes on beside them where batches are
sampled ahead.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from sapo_vl.runs import metrics
from sapo_vl.runs.files import read_json

PHASES = ("rollout", "old_logprobs", "update", "sync")
FIRST = 5
"""Steps left out: caches fill, and batches ahead are sampled one after the other at the start."""


def row_of(run: Path) -> dict[str, str]:
    """Return a run's table row: column -> text. Raises IndexError for a run of few steps."""
    rows = [row for row in metrics.read(run) if row.get("phase") == "train"][FIRST:]

    def median(name: str) -> float:
        return statistics.median(row.get(f"seconds/{name}", 0.0) for row in rows)

    phases = {name: median(name) for name in PHASES}
    steps = [sum(row.get(f"seconds/{name}", 0.0) for name in PHASES) for row in rows]
    cells = {"run": run.name} | {name: f"{value:.2f}" for name, value in phases.items()}
    cells["step"] = f"{statistics.median(steps):.2f}"
    cells["sampling"] = f"{median('sampling'):.2f}"
    for name in ("before", "after"):
        cells[name] = _accuracy(read_json(run / "eval" / f"{name}.json") or {})
    seconds: dict[str, Any] = read_json(run / "seconds.json") or {}
    cells["80 steps"] = f"{seconds.get('sapo', 0.0):.0f}"
    return cells


def _accuracy(summary: dict[str, Any]) -> str:
    score = next((v for k, v in summary.items() if k.startswith("avg@")), None)
    if score is None:
        return "-"
    low, high = summary.get("ci95") or (float("nan"), float("nan"))
    return f"{100 * score:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Print the table of the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    rows = [row_of(run) for run in parser.parse_args().runs]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")


if __name__ == "__main__":
    main()
