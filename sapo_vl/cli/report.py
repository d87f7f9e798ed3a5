"""`sapo-vl report`: a run's page, or the page of several runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_report(commands: argparse._SubParsersAction) -> None:
    """Add the command `report` to `commands`."""
    report = commands.add_parser("report", help="a run, or several side by side, as one HTML page")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="page to write (default: RUN/report.html)"
    )
    report.set_defaults(run=_report, parser=report)


def _report(arguments: argparse.Namespace) -> None:
    from sapo_vl.pages.report import page

    print(page.write([run.expanduser() for run in arguments.runs], arguments.out))
