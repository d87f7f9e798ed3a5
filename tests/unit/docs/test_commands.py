"""Every command in README and docs/ can be parsed: its options exist, and its config keys too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT

from sapo_vl.cli import parser
from sapo_vl.cli.options import load_config
from sapo_vl.config import load

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

LAUNCHED = {"train_vl.sh": "train", "prepare_data.sh": "prepare", "serve_vl.sh": "serve"}
"""The scripts that pass their arguments on to a command."""

START = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:bash scripts/(?P<script>\w+\.sh)|sapo-vl)(?= |$)")


PLACEHOLDERS = {"N": "1", "S": "1", "P": "8000"}
"""Letters that stand for a number."""

FILES = {"FILE", "NAME", "C", "RECIPE"}
"""Words that stand for a configuration."""


def shown(page: Path) -> list[tuple[str, bool]]:
    """Return a page's commands, each with whether it is a line of a block: then it is whole."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
              for line in block.splitlines()]  # fmt: skip
    fenced += re.findall(r"^    (\S.*)$", text, re.M)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = dict.fromkeys(inline, False) | dict.fromkeys(map(str.strip, fenced), True)
    return [(line, whole) for line, whole in found.items() if START.match(line)]


def words(command: str) -> list[str]:
    """Return the words of the `sapo-vl` command behind a line; none if they aren't all there."""
    line = re.split(r" +# | [>|;&/] ", command)[0]
    if " [" in line:  # optional arguments are given
        line = line.replace(" [", " ").replace("] ", " ").removesuffix("]")
    match = START.match(line)
    assert match is not None
    rest = [_filled(word) for word in shlex.split(line[match.end() :])]
    if any(re.fullmatch(r"(.+=)?\.+|\w+\|.*|key=value", word) for word in rest):
        return []
    script = match["script"]
    if script == "eval_vl.sh":
        return ["benchmark" if "--benchmarks" in rest else "evaluate", *rest]
    if script is not None and script not in LAUNCHED:
        return []
    return [*([LAUNCHED[script]] if script else ()), *rest]


def _filled(word: str) -> str:
    name, sign, value = word.rpartition("=")
    return name + sign + PLACEHOLDERS.get(value, value)


COMMANDS = [(page.name, line, whole) for page in PAGES for line, whole in shown(page)]


@pytest.mark.parametrize(
    ("page", "line", "whole"), COMMANDS, ids=[f"{page}: {line}" for page, line, _ in COMMANDS]
)
def test_the_command_is_parsed(page, line, whole, capsys):
    found = words(line)
    if not found or found == ["--help"]:
        return
    try:
        arguments = parser._parse(found)
    except SystemExit:
        said = capsys.readouterr().err
        assert "arguments are required" in said, said
        assert not whole, said  # `sapo-vl verify` in a sentence names the command alone
        return
    if hasattr(arguments, "default_config"):
        if arguments.config in FILES:
            arguments.config = None
        load_config(arguments)
    elif hasattr(arguments, "overrides"):
        load(None, arguments.overrides)


def test_most_commands_are_looked_at():
    assert sum(bool(words(line)) for _, line, _ in COMMANDS) > 100
    assert words("bash scripts/train_vl.sh --config x a.b=N   # a note") == [
        "train", "--config", "x", "a.b=1",
    ]  # fmt: skip
    assert words("sapo-vl evaluate --model M [--out DIR] [--samples 8]") == [
        "evaluate", "--model", "M", "--out", "DIR", "--samples", "8",
    ]  # fmt: skip
