"""Every message that docs/troubleshooting.md quotes is one that the code can print."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from helpers import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
FOLDERS = ("sapo_vl", "data", "rewards")

SHORTEST = 12
"""Letters that a quoted message has besides what differs."""


@cache
def sources() -> tuple[str, ...]:
    """Return all texts of the code, what is filled in as NUL."""
    texts = []
    files = [f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py"))]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append(_joined(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def _joined(node: ast.JoinedStr) -> str:
    return "".join(p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)


def quoted() -> list[str]:
    """Return the messages in the first column of the page's tables; keys and values are none."""
    rows = re.findall(r"^\| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    found = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    return [text for text in found if " " in text]


def is_printed(message: str) -> bool:
    """Whether the message's fixed parts stand in one text, in order, or each in one of its own.

    The second is for a message that the code puts together; its parts then have to be long.
    """
    parts = [part.strip() for part in re.split(r"\.\.", message) if part.strip(" :,;.()=")]
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.S)
    if any(pattern.search(text) for text in sources()):
        return True
    return all(
        len(part) >= SHORTEST and any(part.strip(" :=") in text for text in sources())
        for part in parts
    )


@pytest.mark.parametrize("message", quoted())
def test_the_message_is_in_the_code(message):
    assert is_printed(message)


def test_messages_are_found_and_others_are_not():
    assert len(quoted()) > 45
    assert is_printed("model.path=.. is not a model folder: config.json is missing")
    assert not is_printed("model.path=.. is not a model folder: config.yaml is missing")
    assert not is_printed("there is no such message")
