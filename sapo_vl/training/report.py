"""The end of a run: the last evaluation, the exported model, the summary."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sapo_vl.algorithm import telemetry
from sapo_vl.runs import metrics, plots
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.progress import table
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Trainer


def write_report(trainer: Trainer) -> None:
    """Evaluate the result, export it to RUN/final, and write and print the summary."""
    run, config, final = trainer.run, trainer.config, trainer.run.dir / "final"
    if read_json(run.dir / "eval" / "after.json") is None:
        trainer.evaluate("after")
    distributed.barrier()
    if not final.exists():
        trainer.learner.export(run.dir / "final.partial")
        if distributed.rank() == 0:
            (run.dir / "final.partial").rename(final)
    if distributed.rank() != 0:
        return
    before, after = (read_json(run.dir / "eval" / f"{name}.json") for name in ("before", "after"))
    seconds = {name: round(value, 1) for name, value in run.seconds().items()}
    write_json(run.dir / "summary.json", {"before": before, "after": after, "seconds": seconds})
    plots.curves(run.dir)
    table(
        f"{after['problems']} held-out problems",
        ["held-out accuracy", f"avg@{config.evaluation.samples}", "95 % interval", "greedy"],
        [_accuracy_row("before", before), _accuracy_row("after", after)],
    )
    note = None
    if trainer.objective.is_gated:
        rows = [row for row in metrics.read(run.dir) if row.get("phase") == "train"]
        note = telemetry.explain_gate(rows, config.algorithm.num_mini_batches)
    distributed.print0(note or f"seconds: {json.dumps(seconds)}")
    distributed.print0(f"the trained model is in {final}, the curves in {run.dir / 'curves.png'}")


def _accuracy_row(name: str, summary: dict[str, Any]) -> list[str]:
    average = next(value for key, value in summary.items() if key.startswith("avg@"))
    low, high = summary["ci95"]
    greedy = "-" if summary["greedy"] is None else f"{100 * summary['greedy']:.1f} %"
    return [name, f"{100 * average:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", greedy]
