"""The command line: `sapo-vl COMMAND`. Modules that take long to import follow after parsing.

Exit codes: 0 success; 1 a run that can't continue (RunError), in one line, or a bug, with its
traceback; 2 the user's mistake (UserError), in one line; 130 or 143 ended by a signal, after a
checkpoint; 141 stdout was closed.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from sapo_vl.cli import (
    config_reference,
    data,
    doctor,
    evaluation,
    pages,
    replay,
    serving,
    training,
)
from sapo_vl.cli.options import add_config
from sapo_vl.errors import RunError, UserError, nearest, printable
from sapo_vl.system.launch import first_to_say


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = _parse(argv)
    try:
        arguments.run(arguments)
    except UserError as error:
        _say(printable(error))
        sys.exit(2)
    except RunError as error:
        _say(f"{type(error).__name__}: {printable(error)}")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        place = printable(error.filename or "the run")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"no space left on the disk of {place}: free some, then continue with --resume"
        else:
            text = f"{place}: {error.strerror}"
        _say(text)
        sys.exit(2)


def _say(text: str) -> None:
    """Print an error line, unless another rank of this run has printed the same."""
    if first_to_say(text):
        print(f"sapo-vl: {text}", file=sys.stderr)


MACHINE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
    errno.ELOOP,
)
"""Errors of files that say something about the machine and not about this program."""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse. Unlike argparse alone, accept `key=value` overrides between and after options."""
    parser = CommandParser(
        prog="sapo-vl", description="RL fine-tuning of vision-language models with SAPO."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for add in GROUPS:
        add(commands)
    arguments, rest = parser.parse_known_args(argv)
    misplaced = [word for word in rest if "=" not in word or word.startswith("-")]
    if misplaced or (rest and not hasattr(arguments, "overrides")):
        arguments.parser.error(f"unknown argument {(misplaced or rest)[0]}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    for name, value in vars(arguments).items():
        if isinstance(value, Path):  # no shell expands the ~ of --out=~/x
            setattr(arguments, name, value.expanduser() if str(value)[:1] == "~" else value)
    return arguments


class CommandParser(argparse.ArgumentParser):
    """Reports a mistake in one line, with the nearest known command or option."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        known = [
            option
            for action in self._actions
            if action.help != argparse.SUPPRESS
            for option in action.option_strings
        ]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                known.extend(action.choices)
                if "invalid choice" in message:
                    message = "unknown command" + message.split("invalid choice:")[1].split("(")[0]
        wrong = message.split()[-1].strip("'")
        if "required" in message:  # argparse reports this before any unknown option
            given = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")]
            wrong = next((word for word in given if word not in known), "")
        hint = nearest(wrong, known) if wrong else ""
        self.exit(2, f"{self.prog}: {message.strip()}{hint}\n")


GROUPS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    training.add,
    doctor.add,
    replay.add,
    serving.add,
    evaluation.add,
    pages.add,
    partial(data.add, overrides=partial(add_config, default=None)),
    config_reference.add,
)
"""Each adds the commands of one subject; `--help` lists them in this order."""


if __name__ == "__main__":
    main()
