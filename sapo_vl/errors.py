"""Errors that a user can fix, and errors that a run reports; anything else is a bug.

The command line prints a `UserError` as one line and exits with code 2. A `RunError` is raised by
a run that can't go on: it exits with code 1 and keeps its traceback. See cli/parser.py.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input or set-up. The message is one line that says what to change."""


class ConfigError(UserError):
    """A config key or option is wrong. The message names the key, its value and what is allowed."""


class DataError(UserError):
    """A record or a data file is wrong. The message names the file and the record."""


class SetupError(UserError):
    """The machine lacks something: disk space, a free port, vLLM, a GPU."""


class RunError(RuntimeError):
    """Training can't continue for a reason found in the run itself."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def printable(text: object) -> str:
    """Return `str(text)` on one line, with everything that could steer a terminal escaped.

    Ids, answers, file names and model output come from outside: control and format characters
    (escape sequences, line breaks, bidirectional marks) and lone surrogates are written as \\x1b,
    \\n, \\u202e. Use it wherever such a text is printed or put into a message.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Return `text` as `printable` does, but with its line breaks and tabs (for tables, pages)."""
    if text.isprintable():
        return text
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))


def _escaped(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode("ascii")
