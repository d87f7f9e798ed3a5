"""The errors a user can mend. Everything else is a crash of ours and stays a traceback.

The command line prints a `UserError` as one line and exits with code 2 (see cli.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something outside the code is wrong, and the message says what to do about it."""


class ConfigError(UserError):
    """A config key or value is wrong. The message names the key, the value and what is allowed."""


class DataError(UserError):
    """A record or a data file is wrong. The message names the file and the record."""


class EnvironmentProblem(UserError):
    """The machine lacks something: disk space, a free port, vLLM, a GPU."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
