"""The command line: `sapo-vl COMMAND`. Modules that take long to import follow after parsing.

Exit codes: 0 success; 1 a bug, or a run that can't go on (RunError), with its traceback; 2 the
user's mistake (UserError), in one line; 130 or 143 ended by a signal, after a checkpoint; 141
stdout was closed.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from sapo_vl.cli import config_reference, data, evaluation, training
from sapo_vl.cli.options import add_config
from sapo_vl.errors import UserError, nearest


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = _parse(argv)
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"sapo-vl: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        print("sapo-vl: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"sapo-vl: no space left on the disk of {error.filename or 'the run'}: free some, then "
            "continue a run with --resume",
            file=sys.stderr,
        )
        sys.exit(2)


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


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="turn a data set into training records")
    prepare.add_argument("name", help="a known source, generic, or my/source.py:rows")
    prepare.add_argument("--out", type=Path, required=True, help="folder to write")
    prepare.add_argument("--source", help="original files, or a hub id")
    prepare.add_argument("--holdout", type=float, default=0.15, help="share of held-out pictures")
    prepare.add_argument("--map", default="", help="generic: problem=question,answer=label,..")
    prepare.add_argument("--split", help="keep only this split of the source")
    prepare.add_argument("--limit", type=int, help="read at most so many records")
    prepare.add_argument("--max-pixels", type=int, help="store a larger picture scaled to so many")
    prepare.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a record with a fault"
    )
    prepare.add_argument(
        "--verifier", default="answer", help="that must read each gold answer; none: no check"
    )
    prepare.add_argument("--seed", type=int, default=0, help="synthetic: of the drawing")
    prepare.add_argument("--count", type=int, default=10_000, help="synthetic: training records")
    prepare.add_argument("--test-count", type=int, default=480, help="synthetic: held-out records")
    prepare.add_argument("--teacher", default="weak", help="synthetic: weak or exact solutions")
    prepare.add_argument("--level", type=int, default=1, help="synthetic: 1, 2 or 3")
    prepare.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    prepare.set_defaults(run=_prepare, parser=prepare)


def _prepare(arguments: argparse.Namespace) -> None:
    from sapo_vl.cli.data_work import prepare

    report = prepare(
        arguments.name,
        verifier=arguments.verifier,
        out=arguments.out,
        source=arguments.source,
        columns=arguments.map,
        holdout=arguments.holdout,
        split=arguments.split,
        limit=arguments.limit,
        max_pixels=arguments.max_pixels,
        on_error=arguments.on_error,
        seed=arguments.seed,
        count=arguments.count,
        test_count=arguments.test_count,
        teacher=arguments.teacher,
        level=arguments.level,
        overwrite=arguments.overwrite,
    )
    print(report.table())


GROUPS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    training.add,
    evaluation.add,
    _add_prepare,
    partial(data.add, overrides=partial(add_config, default=None)),
    config_reference.add,
)
"""Each adds the commands of one subject; `--help` lists them in this order."""


if __name__ == "__main__":
    main()
