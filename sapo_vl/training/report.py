"""The end of a run: the last evaluation, the exported model, the summary, the report."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from sapo_vl.algorithm.explain import explain
from sapo_vl.errors import printable
from sapo_vl.evaluation.heldout import columns, shown
from sapo_vl.pages.report import page
from sapo_vl.runs import metrics, plots, warning_log
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.progress import table
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Trainer


STAMP = "final.json"
"""File that says which step RUN/final is of; the folder itself holds the model alone."""


def write_report(trainer: Trainer) -> None:
    """Evaluate the result, export it to RUN/final, and write and print the summary.

    An evaluation and a model that were made of another step or with other settings (the run went on
    after its end) are made again; the old ones stay beside them as after-step_000002.json and
    final-step_000002.
    """
    run, final = trainer.run, trainer.run.dir / "final"
    _evaluate_once(trainer)
    _export_once(trainer, final)
    start, end = trainer.learner.frozen, trainer.learner.check_frozen()
    if distributed.rank() != 0:
        return
    before, after = (read_json(run.dir / "eval" / f"{name}.json") for name in ("before", "after"))
    seconds = {name: round(value, 1) for name, value in run.seconds().items()}
    frozen = None
    if end.parameters:
        frozen = {"parameters": end.parameters, "start": start.digest, "end": end.digest}
    write_json(
        run.dir / "summary.json",
        {"before": before, "after": after, "frozen": frozen, "seconds": seconds},
    )
    plots.curves(run.dir)
    settings = after["settings"]
    table(
        f"{after['problems']} held-out problems",
        ["held-out accuracy", *columns(settings["samples"], settings["temperature"])],
        [
            [name, *shown(summary, summary["settings"]["samples"])]
            for name, summary in (("before", before), ("after", after))
        ],
    )
    if end.parameters:
        distributed.print0(
            f"frozen weights: {end.parameters:,} parameters, digest {start.digest} at the start "
            f"and {end.digest} at the end"
        )
    if before["settings"] != settings:
        distributed.print0("note: `before` was evaluated with other settings than `after`")
    rows = [row for row in metrics.read(run.dir) if row.get("phase") == "train"]
    mini_batches, gated = trainer.config.algorithm.num_mini_batches, trainer.objective.is_gated
    note = explain(rows, mini_batches=mini_batches, gated=gated)
    distributed.print0(printable(note) if note else f"seconds: {json.dumps(seconds)}")
    distributed.print0(
        f"the trained model, of step {trainer.state.step}, is in {final}, the curves in "
        f"{run.dir / 'curves.png'}"
    )
    write_page(run)


def write_page(run: Run) -> None:
    """Write RUN/report.html on rank 0, when all else of the run is saved.

    Whatever goes wrong with the page is said in a line and kept as a warning: the run is complete.
    """
    if distributed.rank() != 0:
        return
    try:
        distributed.print0(f"the report is in {page.write([run.dir])}")
    except Exception as error:
        line = f"report.html could not be written: {type(error).__name__}: {printable(error)}"
        distributed.print0(f"{line}; the run is complete, `sapo-vl report {run.dir}` tries again")
        with suppress(OSError):  # the disk may be full
            warning_log.record(run.dir, 0, line)


def _evaluate_once(trainer: Trainer) -> None:
    """Evaluate the final policy as `after`, unless that has been done."""
    stamp, folder = trainer.evaluation_stamp(), trainer.run.dir / "eval"
    found = read_json(folder / "after.json")
    if found is not None and {key: found.get(key) for key in stamp} == stamp:
        return
    distributed.barrier()  # every rank has read it
    if found is not None and distributed.rank() == 0:
        for suffix in (".jsonl", ".json"):  # the summary last: until then it is found again
            _set_aside(folder / f"after{suffix}", found.get("step"))
    trainer.evaluate("after")


def _export_once(trainer: Trainer, final: Path) -> None:
    """Export the policy to `final`, unless that has been done.

    The stamp is written before the folder gets its name, so that a folder always has its own.
    """
    stamp, step = trainer.run.dir / STAMP, trainer.state.step
    found = (read_json(stamp) or {}).get("step")
    if final.exists() and found == step:
        return
    partial = final.with_name("final.partial")
    trainer.settle_receipt()
    trainer.learner.export(partial)
    if distributed.rank() == 0:
        _set_aside(final, found)
        write_json(stamp, {"step": step})
        partial.rename(final)
    distributed.barrier()


def _set_aside(path: Path, step: int | None) -> None:
    """Rename a file or folder to NAME-step_000002 with its suffix, or with a number after it."""
    if not path.exists():
        return
    name = f"{path.stem}-step_{step or 0:06d}"
    candidates = (
        f"{name}{number}{path.suffix}" for number in chain([""], map("-{}".format, count(2)))
    )
    path.rename(next(p for p in map(path.with_name, candidates) if not p.exists()))
