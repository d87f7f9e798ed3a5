"""The estimates in docs/ are what the scripts print, and their arithmetic by hand."""

from __future__ import annotations

import pytest
from bench import fits, step_estimate
from helpers import ROOT


def test_the_tables_in_the_docs_are_the_scripts():
    assert step_estimate.markdown() in (ROOT / "docs" / "performance.md").read_text()
    assert fits.markdown() in (ROOT / "docs" / "memory.md").read_text()


def test_the_gathers_of_the_earlier_head_by_hand():
    """64 responses of 2,048 tokens a rank, in chunks of 110; 7 of 8 parts of 1.24 GB come over."""
    (row,) = [r for r in step_estimate.estimate() if r.phase == "update: gathers of the head"]
    chunks = 1192  # 131,072 / 110
    assert row.before == pytest.approx(2 * chunks * 2 * 151_936 * 4096 * 7 / 8 / 300e9)
    assert row.after == 0


def test_the_offloaded_optimizer_by_hand():
    """4 steps of 4.02 billion parameters at 4.3 ns."""
    one, several = step_estimate.offloaded_optimizer()
    assert one == pytest.approx(4 * 4.022e9 * 4.3e-9, rel=0.001)
    assert several == one / 8
