"""Text from outside must not steer the terminal."""

from __future__ import annotations

import pytest

from sapo_vl.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("图 1 is fine", "图 1 is fine"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("id\nsapo-vl: wrote everything", "id\\nsapo-vl: wrote everything"),
        ("\u202egnp.a", "\\u202egnp.a"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str):
    assert printable(text) == shown
