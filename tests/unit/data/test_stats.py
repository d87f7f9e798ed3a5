"""Statistics and the contact sheet, by hand-computed counts."""

from __future__ import annotations

from dataclasses import replace

from helpers import make_sample

from sapo_vl.data import show, store
from sapo_vl.data.stats import stats


def test_stats_and_sheet(tmp_path):
    samples = [replace(make_sample(((64, 64),), n, name=f"s{n}")) for n in range(6)]
    samples[4:] = [replace(s, split="test") for s in samples[4:]]
    store.write(tmp_path / "in", samples)
    counts = stats(tmp_path / "in")
    assert counts.splits == {"train": 4, "test": 2}
    assert counts.tasks == {"noise: sum": 6}
    assert counts.visual_tokens == {0: 6}
    assert "      6       0 to 63" in counts.text()
    assert show.write(tmp_path / "in", tmp_path / "sheet.html", limit=3) == 3
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;image&gt;What is the sum?" in page
