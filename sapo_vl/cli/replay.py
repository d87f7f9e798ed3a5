"""`sapo-vl replay`: an autopsy's batch once more."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sapo_vl.system.machine import prepare_environment


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to `commands`."""
    replay = commands.add_parser(
        "replay",
        help="run the batch of an autopsy again: RUN/autopsy/NAME",
        description="Run the mini-batch of RUN/autopsy/NAME again, in one process, and compare it "
        "with what the run recorded. Exit code 1: not reproduced.",
    )
    replay.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the autopsy")
    replay.add_argument(
        "--model",
        metavar="M",
        help="folder or hub id with other weights; with model.lora another base",
    )
    replay.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config keys that differ from the run's, e.g. learner.layout=padded",
    )
    replay.set_defaults(run=_replay, parser=replay)


def _replay(arguments: argparse.Namespace) -> None:
    prepare_environment()
    from sapo_vl.training import replay

    agreement = replay.main(arguments.bundle, arguments.model, arguments.overrides)
    if not agreement.is_reproduced:
        sys.exit(1)
