"""Errors that a user can fix, and errors that a run reports; anything else is a bug.

The command line prints a `UserError` as one line and exits with code 2. A `RunError` is raised by
a run that can't go on: it exits with code 1 and keeps its traceback. See cli/parser.py.
"""

from __future__ import annotations

import difflib
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
