"""Plug-ins by path: `my/file.py:NAME` in a config key or on the command line.

Objectives, benchmarks, generators, verifiers and data sources are all named this way; nothing has
to be installed or registered.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sapo_vl.errors import ConfigError, nearest


class Target(NamedTuple):
    """A parsed `my/file.py:NAME`."""

    file: Path
    name: str


class Plugin(NamedTuple):
    """What a plug-in path names."""

    value: Any  # the object called NAME
    module: ModuleType  # the file it is defined in, for companions such as `Options`


def parse(text: str, key: str, known: Iterable[str]) -> Target:
    """Split `my/file.py:NAME`, without importing it.

    Args:
        text: what the user wrote.
        key: the config key or option it was written under, for the message.
        known: built-in names, for a suggestion.

    Raises:
        ConfigError: `text` is neither of this form nor the path of an existing file.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ConfigError(
            f"{key}: {text!r} is unknown; allowed: {', '.join(sorted(known))}, or "
            f"path/to/file.py:NAME{nearest(text, known)}"
        )
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise ConfigError(f"{key}: the file {file!r} does not exist")
    return Target(path, name)


def absolute_plugin(text: str) -> str:
    """Return `my/file.py:NAME` with an absolute path; any other name as it is."""
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        return text
    return f"{Path(os.path.expanduser(file)).absolute()}:{name}"


def load(text: str, key: str, known: Iterable[str] = ()) -> Plugin:
    """Import the file and return the object that `my/file.py:NAME` names.

    Raises:
        ConfigError: the path is wrong, the file fails to import, or it defines no NAME.
    """
    target = parse(text, key, known)
    spec = importlib.util.spec_from_file_location(f"sapo_vl_user_{target.file.stem}", target.file)
    assert spec is not None, target
    assert spec.loader is not None, target
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look the module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code: any exception is the user's to fix
        raise ConfigError(f"{key}: {target.file} cannot be imported: {error!r}") from error
    if target.name not in vars(module):
        raise ConfigError(
            f"{key}: {target.file} defines no {target.name!r}{nearest(target.name, vars(module))}"
        )
    return Plugin(vars(module)[target.name], module)
