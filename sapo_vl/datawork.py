"""What `sapo-vl prepare` adds to data/: the verifiers' word on gold answers, and a display."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sapo_vl.data import prepare as preparation
from sapo_vl.data.report import Report
from sapo_vl.errors import DataError
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Sample


def prepare(name: str, *, verifier: str, **arguments: Any) -> Report:
    """Run `data.prepare.prepare` with a gold check by `verifier` ("none": no check) and a bar.

    Raises:
        ConfigError: the verifier is unknown.
        UserError: as `data.prepare.prepare`.
    """
    rubric = None if verifier == "none" else Rubric.from_terms([(verifier, 1.0)])
    try:
        with bar(name) as progress:
            task = progress.add_task(name, total=None, dropped=0)

            def tick(report: Report) -> None:
                progress.update(task, completed=report.read, dropped=dropped(report))

            check = None if rubric is None else GoldCheck(rubric)
            return preparation.prepare(name, check=check, tick=tick, **arguments)
    finally:
        if rubric is not None:
            rubric.close()


class GoldCheck:
    """Says why a sample's own gold answer does not pass a rubric, or None."""

    def __init__(self, rubric: Rubric) -> None:
        self._rubric = rubric

    def __call__(self, sample: Sample) -> str | None:
        """Return the rubric's complaint about `sample.answer`, or None."""
        try:
            self._rubric.check_gold([sample])
        except DataError as error:
            return str(error)
        return None


def bar(title: str) -> Progress:
    """Return a progress bar on standard error; nothing is drawn where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[dropped]} dropped"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def dropped(report: Report) -> int:
    """Return how many records a report has dropped so far."""
    return sum(drops.count for drops in report.dropped.values())
