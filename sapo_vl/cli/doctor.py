"""`sapo-vl doctor`: try a run's parts before it starts; and the launchers' pointer to it."""

from __future__ import annotations

import argparse
import atexit
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sapo_vl.cli.options import add_config, check_objective, config_file
from sapo_vl.config import load
from sapo_vl.system.launch import first_to_say
from sapo_vl.system.machine import prepare_environment

LAUNCHER = "SAPO_LAUNCHER"
"""Environment variable that a launcher sets: its user may not know of this command."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to `commands`."""
    doctor = commands.add_parser(
        "doctor",
        help="try a run's parts in a minute or two: model, data, verifiers, engine, machine",
    )
    add_config(doctor)
    doctor.add_argument("--data", metavar="FOLDER", help="prepared data: data.path=FOLDER")
    doctor.add_argument("--model", metavar="PATH", help="folder or hub id: model.path=PATH")
    doctor.add_argument(
        "--quick",
        action="store_true",
        help="leave out what loads the model's weights, such as on a GPU that is in use",
    )
    doctor.set_defaults(run=_doctor, parser=doctor)


def _doctor(arguments: argparse.Namespace) -> None:
    prepare_environment()
    named = {"data.path": arguments.data, "model.path": arguments.model}
    overrides = [f"{key}={value}" for key, value in named.items() if value is not None]
    config = load(config_file(arguments), [*overrides, *arguments.overrides])
    check_objective(config)
    from sapo_vl.training.doctor.examine import doctor

    doctor(config, config_file(arguments), quick=arguments.quick)


@contextmanager
def named_after_failure() -> Iterator[None]:
    """Where a launcher runs this, end a failure's output with the command that looks into it.

    The line is printed as the process ends, after the error; by one rank of a run.
    """
    try:
        yield
    except Exception:
        line = f"to check the set-up: {_command()}"
        if os.environ.get(LAUNCHER) and first_to_say(line):
            atexit.register(partial(print, line, file=sys.stderr))
        raise


def _command() -> str:
    """Return this command line as doctor's."""
    program = Path(sys.executable).with_name("sapo-vl")
    start = [str(program)] if program.exists() else [sys.executable, "-m", "sapo_vl.cli"]
    dropped = ("--resume", "--dry-run")
    return shlex.join([*start, "doctor", *(word for word in sys.argv[2:] if word not in dropped)])
