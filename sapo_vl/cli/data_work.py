"""What the commands on data add to data/: verifiers, models, and a display."""

from __future__ import annotations

import argparse
import errno
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sapo_vl.data import prepare as preparation
from sapo_vl.data import rewrite as passes
from sapo_vl.data import store
from sapo_vl.data.report import Report
from sapo_vl.data.shards import fingerprint, refuse_occupied
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Sample
from sapo_vl.system.machine import prepare_environment


def prepare(name: str, *, verifier: str, **arguments: Any) -> Report:
    """Run `data.prepare.prepare` with a gold check by `verifier` ("none": no check) and a bar.

    Raises:
        ConfigError: the verifier is unknown.
        UserError: as `data.prepare.prepare`.
    """
    with one_line(), ExitStack() as stack:
        check = None if verifier == "none" else stack.enter_context(closing(GoldCheck(verifier)))
        progress = stack.enter_context(bar(name))
        task = progress.add_task(name, total=None, dropped=0)

        def tick(report: Report) -> None:
            progress.update(task, completed=report.read, dropped=dropped(report))

        return preparation.prepare(name, check=check, tick=tick, **arguments)


def rewrite(source: Path, out: Path, name: str, judge: passes.Judge, **options: Any) -> Report:
    """Run `data.rewrite.rewrite` with a bar.

    Raises:
        UserError: as `data.rewrite.rewrite`.
    """
    total = sum(len(store.load(source, split)) for split in store.splits(source))
    with bar(name.split()[0]) as progress:
        task = progress.add_task(name, total=total, dropped=0)

        def tick(report: Report) -> None:
            progress.update(task, completed=report.read, dropped=dropped(report))

        return passes.rewrite(source, out, name, judge, tick=tick, **options)


def decontaminate(arguments: argparse.Namespace) -> Report:
    """Drop copies of the records of --against; every match goes into OUT.matches.jsonl.

    Raises:
        DataError: a folder is no data set, or lacks the split; or --out is occupied.
    """
    from sapo_vl.data.filters.decontaminate import Index

    refuse_occupied(arguments.out, arguments.overwrite)
    wanted = [
        store.load(folder, split)
        for folder in arguments.against
        for split in ([arguments.split] if arguments.split else store.splits(folder))
    ]
    with bar("hash") as progress:
        task = progress.add_task("hash", total=sum(map(len, wanted)), dropped=0)
        index = Index(progress.track(chain.from_iterable(wanted), task_id=task))
    matches = arguments.out.with_name(f"{arguments.out.name}.matches.jsonl")

    def judge(sample: Sample) -> str | None:
        match = index.match(sample)
        if match is None:
            return None
        lines.write(json.dumps(asdict(match)) + "\n")
        return f"a copy of an evaluation record: {match.reason}"

    against = [[str(folder.resolve()), fingerprint(folder)] for folder in arguments.against]
    name = f"decontaminate {json.dumps([against, arguments.split])}"
    matches.parent.mkdir(parents=True, exist_ok=True)
    partial = matches.with_name(f".{matches.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as lines:
            report = rewrite(
                arguments.folder,
                arguments.out,
                name,
                judge,
                remembers=True,
                overwrite=arguments.overwrite,
            )
        partial.replace(matches)
    finally:
        partial.unlink(missing_ok=True)
    return report


def model_judges(arguments: argparse.Namespace) -> list[passes.Judge]:
    """Score the data set with the model and return the judges of --pass-rate and --needs-image.

    Raises:
        ConfigError: no model is named, or the range is none.
    """
    if not arguments.model:
        raise ConfigError("filter: --pass-rate and --needs-image need --model")
    if arguments.samples < 1:
        raise ConfigError(f"filter: --samples {arguments.samples}: take at least 1")
    prepare_environment()
    from sapo_vl.cli.options import load_config
    from sapo_vl.evaluation import pass_rate

    bounds = pass_rate.parse_range(arguments.pass_rate) if arguments.pass_rate else None
    config = load_config(arguments)
    config.model.path = arguments.model

    def scores(blind: bool) -> dict[str, pass_rate.PassRate]:
        kind = "blind" if blind else "scores"
        cache = arguments.out.with_name(f"{arguments.out.name}.{kind}.jsonl")
        cache.parent.mkdir(parents=True, exist_ok=True)
        samples, folder = passes.every(arguments.folder), arguments.folder
        total = sum(len(store.load(folder, split)) for split in store.splits(folder))
        with bar(kind) as progress:
            task = progress.add_task(kind, total=total, dropped=0)
            return pass_rate.solve(
                config,
                samples,
                arguments.samples,
                cache,
                blind=blind,
                tick=lambda done: progress.update(task, completed=done),
            )

    judges = [pass_rate.within(scores(blind=False), *bounds)] if bounds else []
    if arguments.needs_image:
        judges.append(pass_rate.needs_image(scores(blind=True)))
    return judges


class GoldCheck:
    """Says why a sample's own gold answer does not pass a verifier, or None."""

    def __init__(self, verifier: str) -> None:
        """Raises ConfigError for an unknown verifier."""
        self._verifier = verifier
        self._rubric = Rubric.from_terms([(verifier, 1.0)])

    def __repr__(self) -> str:
        return f"GoldCheck({self._verifier!r})"

    def close(self) -> None:
        """End the verifier's processes."""
        self._rubric.close()

    def __call__(self, sample: Sample) -> str | None:
        """Return the verifier's complaint about `sample.answer`, or None."""
        try:
            self._rubric.check_gold([sample])
        except DataError as error:
            return str(error)
        return None


@contextmanager
def one_line() -> Iterator[None]:
    """Let a command end with one line when it is interrupted or may not write or read a file.

    Raises:
        SystemExit: with the shell's code for an interruption.
        DataError: a file or folder cannot be written or read.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("sapo-vl: interrupted; the same command goes on with it", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"{error.filename}: {error.strerror}") from error


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


@contextmanager
def counting(title: str) -> Iterator[Callable[[], None]]:
    """Show a bar and yield what counts one record on it."""
    with bar(title) as progress:
        task = progress.add_task(title, total=None, dropped=0)
        yield lambda: progress.advance(task)


def dropped(report: Report) -> int:
    """Return how many records a report has dropped so far."""
    return sum(drops.count for drops in report.dropped.values())
