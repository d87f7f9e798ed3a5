"""What several commands share: options, configuration files and interruption by a signal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sapo_vl.config import CONFIGS, Config, load
from sapo_vl.config.keys import service_url
from sapo_vl.errors import ConfigError, nearest

if TYPE_CHECKING:
    from sapo_vl.evaluation.benchmarks.llm import Endpoint

MAIN_CONFIG = "train/main.yaml"
"""Shipped configuration that the training commands start from."""


def add_config(parser: argparse.ArgumentParser, default: str | None = MAIN_CONFIG) -> None:
    """Add --config and the `key=value` overrides; `default` is a shipped file, None: no file."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file, or the name of a shipped one such as qwen3_vl_4b "
        f"(default: {default or 'no file'})",
    )
    parser.set_defaults(default_config=default)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config keys, e.g. sapo.tau_neg=1.1; `sapo-vl config` lists them",
    )


def add_judge(parser: argparse.ArgumentParser) -> None:
    """Add --judge and --judge-model, which `endpoint` reads."""
    parser.add_argument(
        "--judge", metavar="URL", help="OpenAI-compatible endpoint of the judge, ends in /v1"
    )
    parser.add_argument("--judge-model", metavar="NAME", help="model name at that endpoint")


def endpoint(arguments: argparse.Namespace) -> Endpoint | None:
    """Return the judge's endpoint, or None. Raises ConfigError if only half of it is given."""
    from sapo_vl.evaluation.benchmarks.llm import Endpoint

    if (arguments.judge is None) != (arguments.judge_model is None):
        raise ConfigError("--judge URL and --judge-model NAME must be given together")
    if not arguments.judge:
        return None
    try:
        return Endpoint(service_url(arguments.judge), arguments.judge_model)
    except ValueError as error:
        raise ConfigError(f"--judge: {error}") from error


def names(text: str) -> list[str]:
    """Split a comma-separated option, without the blanks around its items."""
    return [name for name in (part.strip() for part in text.split(",")) if name]


def load_config(arguments: argparse.Namespace) -> Config:
    """Load the configuration that the arguments of `add_config` describe."""
    return load(config_file(arguments), arguments.overrides)


def config_file(arguments: argparse.Namespace) -> Path | None:
    """Return the file that --config names, else the command's default."""
    name = arguments.config or getattr(arguments, "default_config", None)
    return None if name is None else find_config(name)


def check_objective(config: Config) -> None:
    """Check the objective and its options. Imports torch: call it after `prepare_environment`.

    `load_config` can't, since the options' types live with the objectives.

    Raises:
        ConfigError: the objective or one of its options is unknown, or has a wrong value.
    """
    from sapo_vl.algorithm.objectives import resolve

    resolve(config)


def find_config(name: str) -> Path:
    """Return the YAML file `name`: a path, else a shipped file with or without folder and .yaml.

    Raises:
        ConfigError: neither exists, or several shipped files have this name.
    """
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if path.is_file():
        return path
    shipped = {
        file.relative_to(CONFIGS).with_suffix("").as_posix(): file
        for file in sorted(CONFIGS.glob("*/*.yaml"))
    }
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    matches = [key for key in shipped if wanted in (key, key.rpartition("/")[2])]
    if len(matches) == 1:
        return shipped[matches[0]]
    if matches:
        raise ConfigError(f"--config {name} is ambiguous: {', '.join(matches)}")
    stems = [key.rpartition("/")[2] for key in shipped]
    raise ConfigError(
        f"--config {name} is neither a file nor a shipped configuration "
        f"({', '.join(shipped)}){nearest(wanted, [*stems, *shipped])}"
    )


def interruptible(action: Callable[[], None]) -> None:
    """Run `action`; if a signal ends it, exit with the shell's code for that signal."""
    from sapo_vl.runs.signals import RunInterrupted

    try:
        action()
    except RunInterrupted as stop:
        print(f"sapo-vl: stopped by {stop}", file=sys.stderr)
        sys.exit(128 + stop.signum)
