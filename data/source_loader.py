"""Find a source's `rows` function by name or by path."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterable
from functools import partial

from sapo_vl import plugins
from sapo_vl.data import DATASETS, Dropped
from sapo_vl.errors import ConfigError, DataError, UserError
from sapo_vl.schema import Sample

Record = Sample | Dropped


def source_function(name: str) -> Callable[..., Iterable[Record]]:
    """Return `rows` of a source in `DATASETS`, or a user's function `path/to/file.py:function`.

    Raises:
        ConfigError: the name is unknown, or the file cannot be imported or lacks the function.
    """
    if name in DATASETS:
        return importlib.import_module(DATASETS[name]).rows
    function = plugins.load(name, "data set", DATASETS).value
    if not callable(function):
        raise ConfigError(f"data set: {name!r} is not a function but {function!r:.80}")
    return partial(_name_errors, name, function)


def _name_errors(
    name: str, function: Callable[..., Iterable[Record]], source: object
) -> Iterable[Record]:
    """Yield a user function's records; raise DataError for its exceptions, with file and line."""
    number = 0
    try:
        for record in function(source):
            yield record
            number += 1
    except UserError:
        raise
    except Exception as error:  # user code: any exception is the user's to fix
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"data set {name!r}: record {number}: {error!r} in {frame.filename}, line "
            f"{frame.lineno}"
        ) from error
