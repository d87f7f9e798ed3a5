"""`sapo-vl view` and `sapo-vl report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sapo_vl.errors import ConfigError, DataError, printable

PAGE_SIZE = 16
"""Groups on a page of a step."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands of this file to `commands`."""
    view = commands.add_parser("view", help="look at a run's rollouts in a browser")
    view.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    view.add_argument("other", type=Path, nargs="?", metavar="RUN2", help="a run to show beside it")
    view.add_argument(
        "--out", type=Path, metavar="FILE", help="write one HTML file instead of serving pages"
    )
    view.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    view.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    view.add_argument(
        "--steps", metavar="LIST", help="steps in the file, such as 1,20,40-60 (default: five)"
    )
    view.add_argument(
        "--groups", type=int, metavar="N", help="groups of each step in the file, or on a page"
    )
    view.add_argument("--all", action="store_true", help="all groups of all steps in the file")
    view.set_defaults(run=_view, parser=view)

    report = commands.add_parser("report", help="a run, or several side by side, as one HTML page")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="page to write (default: RUN/report.html)"
    )
    report.set_defaults(run=_report, parser=report)


def _report(arguments: argparse.Namespace) -> None:
    from sapo_vl.pages.report import page

    print(printable(page.write([run.expanduser() for run in arguments.runs], arguments.out)))


def _view(arguments: argparse.Namespace) -> None:
    from sapo_vl.pages.viewer import single_file
    from sapo_vl.pages.viewer.files import RolloutFiles
    from sapo_vl.pages.viewer.render import Opened
    from sapo_vl.pages.viewer.token_text import TokenText

    _check(arguments)
    folders = [path for path in (arguments.run_dir, arguments.other) if path is not None]
    runs = tuple(RolloutFiles(folder) for folder in folders)
    opened = Opened(runs, tuple(TokenText(folder) for folder in folders))
    for name, reason in opened.faults():
        print(f"not shown: {printable(name)}: {reason}")
    for files, text in zip(runs, opened.texts, strict=True):
        if not text.available:
            print(f"{printable(files.run_dir)}: no token heat: {text.reason}")
    if arguments.out is None:
        from sapo_vl.pages.viewer.server import serve

        serve(opened, arguments.host, arguments.port, arguments.groups or PAGE_SIZE)
        return
    steps = list(runs[0].steps) if arguments.all else None
    if arguments.steps is not None:
        steps = chosen_steps(arguments.steps, list(runs[0].steps))
    groups = None if arguments.all else arguments.groups or single_file.GROUPS
    written = single_file.write(arguments.out, opened, steps, groups)
    size = arguments.out.stat().st_size / 1e6
    print(
        f"{printable(arguments.out)}: {written.groups} groups of {written.steps} steps, "
        f"{size:.1f} MB. {written.left_out}".rstrip()
    )


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that don't go together."""
    if arguments.groups is not None and arguments.groups < 1:
        raise ConfigError(f"--groups {arguments.groups}: 1 or more")
    if not 0 <= arguments.port < 65536:
        raise ConfigError(f"--port {arguments.port}: 0 (a free one) to 65535")
    if arguments.all and arguments.groups is not None:
        raise ConfigError("--all and --groups exclude each other")
    if arguments.out is None and (arguments.steps is not None or arguments.all):
        raise ConfigError("--steps and --all choose what a file holds: add --out FILE.html")


def chosen_steps(text: str, known: list[int]) -> list[int]:
    """Return the steps with rollouts that a list such as 1,20,40-60 names, in order.

    Raises ConfigError for a word that is no number, DataError when none of them has rollouts.
    """
    wanted: set[int] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = word.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ConfigError(f"--steps {printable(text)}: {printable(word)} is not a step")
        wanted.update(s for s in known if int(first) <= s <= int(last or first))
    if not wanted:
        raise DataError(
            f"--steps {printable(text)}: none of them has rollouts; "
            f"{len(known)} steps from {known[0]} to {known[-1]} have"
        )
    return sorted(wanted)
