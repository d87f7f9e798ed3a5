"""The contact sheet escapes its records."""

from __future__ import annotations

from dataclasses import replace

from helpers import make_sample
from html_pages import HOSTILE, check_hostile

from sapo_vl.data import show, store


def test_hostile_values_stay_text(tmp_path):
    sample = replace(
        make_sample(((8, 8),), 0, name=HOSTILE),
        problem=f"<image>{HOSTILE}",
        answer=HOSTILE,
        answer_type="text",
        dataset=HOSTILE,
        task=HOSTILE,
    )
    store.write(tmp_path / "set", [sample])
    assert show.write(tmp_path / "set", tmp_path / "sheet.html", limit=1) == 1
    check_hostile((tmp_path / "sheet.html").read_text(), 5)
