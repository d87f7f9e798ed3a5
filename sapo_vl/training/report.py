"""The end of a run: the last evaluation, the exported model, the summary, the report."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from sapo_vl.algorithm.explain import explain
from sapo_vl.errors import DataError, printable
from sapo_vl.evaluation.heldout import columns, shown
from sapo_vl.pages.report import page
from sapo_vl.runs import metrics, plots, warning_log
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.progress import table
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint
from sapo_vl.training.best import Best, best_so_far
from sapo_vl.training.export import write_model

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Trainer


STAMP = "final.json"
"""File that says which step RUN/final is of; the folder itself holds the model alone."""


def write_report(trainer: Trainer) -> None:
    """Evaluate the result, export it to RUN/final, and write and print the summary.

    With checkpoint.best the best checkpoint is exported to RUN/best as well.
    An evaluation and a model that were made of another step or with other settings (the run went on
    after its end) are made again; the old ones stay beside them as after-step_000002.json and
    final-step_000002.
    """
    run, final = trainer.run, trainer.run.dir / "final"
    _evaluate_once(trainer)
    _export_once(trainer, final)
    start, end = trainer.learner.frozen, trainer.learner.check_frozen()
    if distributed.rank() != 0:
        distributed.barrier()  # rank 0 may take long to export
        return
    best = best_so_far(trainer.config, trainer.state.step)
    has_best = best is not None and _export_best(trainer, best)
    distributed.barrier()
    before, after = (read_json(run.dir / "eval" / f"{name}.json") for name in ("before", "after"))
    seconds = {name: round(value, 1) for name, value in run.seconds().items()}
    frozen = None
    if end.parameters:
        frozen = {"parameters": end.parameters, "start": start.digest, "end": end.digest}
    write_json(
        run.dir / "summary.json",
        {
            "before": before,
            "after": after,
            "best": best and asdict(best),
            "stopped_early": _stopped_early(trainer, best),
            "frozen": frozen,
            "seconds": seconds,
        },
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
    if best is not None:
        _print_best(trainer, best, has_best)
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


def _stopped_early(trainer: Trainer, best: Best | None) -> dict[str, int] | None:
    """Return the step at which evaluation.patience ended the run, None where it did not."""
    step, steps = trainer.state.step, trainer.config.rollout.steps
    if best is None or step >= steps:
        return None
    return {"step": step, "steps": steps, "patience": trainer.config.evaluation.patience}


def _print_best(trainer: Trainer, best: Best, exported: bool) -> None:
    """Say where the best model is, how it was chosen, and why the run ended before its last step.

    `after` and the best figure stand beside each other: the second is the highest of several.
    """
    config = trainer.config
    if exported:
        distributed.print0(
            f"the best model by {best.metric}, of step {best.step}, is in "
            f"{config.run.dir / 'best'}: {100 * best.value:.1f} %, the highest of "
            f"{best.evaluations} evaluations and so too high on average; measure it on problems "
            "that had no part in the choice"
        )
    if trainer.state.step < config.rollout.steps:
        distributed.print0(
            f"stopped early at step {trainer.state.step} of {config.rollout.steps}: {best.later} "
            f"evaluations without a new best (evaluation.patience={config.evaluation.patience}); "
            f"to go on: --resume run.dir={config.run.dir} evaluation.patience="
            f"{2 * config.evaluation.patience}, or 0 for no early stop"
        )


def _export_best(trainer: Trainer, best: Best) -> bool:
    """Export the best checkpoint to RUN/best, unless that has been done; for rank 0.

    Returns whether the folder is there: a damaged or missing checkpoint costs the folder and not
    the run, and the reason is printed.
    """
    folder = trainer.run.dir / "best"
    stamp = folder.with_name("best.json")
    found = (read_json(stamp) or {}).get("step")
    if folder.exists() and found == best.step:
        return True
    partial = folder.with_name("best.partial")
    path = trainer.checkpoints / checkpoint.TrainState(best.step).name
    try:
        if not path.is_dir():
            raise DataError(
                f"{path} does not exist; checkpoint.best keeps checkpoints from when it is set"
            )
        write_model(trainer.config, path, partial)
    except DataError as error:
        line = f"RUN/best can't be written: {printable(error)}"
        distributed.print0(f"warning: {line}")
        warning_log.record(trainer.run.dir, best.step, line)
        return False
    _set_aside(folder, found)
    write_json(stamp, {"step": best.step})
    partial.rename(folder)
    return True


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
