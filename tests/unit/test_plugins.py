"""Plug-ins by path: what loads, and which key each mistake names."""

from __future__ import annotations

import pytest

from sapo_vl import plugins
from sapo_vl.errors import ConfigError


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_object_and_its_module_are_returned(tmp_path):
    path = write(tmp_path, "class Options:\n    pass\n\ndef loss():\n    return 7\n")
    plugin = plugins.load(f"{path}:loss", "objective")
    assert plugin.value() == 7
    assert plugin.module.Options.__name__ == "Options"


def test_a_dataclass_with_string_annotations_can_be_defined(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n"
    )
    assert plugins.load(f"{write(tmp_path, text)}:Point", "k").value(3).x == 3


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gropo", "grpo"),  # the nearest built-in name
        ("mine.py", "path/to/file.py:NAME"),
        ("missing.py:loss", "missing.py"),
    ],
)
def test_a_wrong_path_names_the_key_and_the_remedy(text, names):
    with pytest.raises(ConfigError, match="objective") as caught:
        plugins.load(text, "objective", ["sapo", "grpo"])
    assert names in str(caught.value)


def test_a_failing_import_and_a_missing_name_are_the_users(tmp_path):
    path = write(tmp_path, "lost = 1\n")
    with pytest.raises(ConfigError, match="lost"):
        plugins.load(f"{path}:loss", "objective")
    path = write(tmp_path, "raise RuntimeError('boom')\n")
    with pytest.raises(ConfigError, match="boom"):
        plugins.load(f"{path}:loss", "objective")
