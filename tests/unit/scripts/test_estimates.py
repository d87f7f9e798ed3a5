"""The estimates in docs/ are what the scripts print, and their arithmetic by hand."""

from __future__ import annotations

import re

import pytest
import torch
from bench import fits, step_estimate
from bench.cases import build_model
from helpers import ROOT

from sapo_vl.config import load
from sapo_vl.training.plan.activations import Row, saved_activations
from sapo_vl.training.plan.shape import model_shape


def test_the_tables_in_the_docs_are_the_scripts():
    assert step_estimate.markdown() in (ROOT / "docs" / "performance.md").read_text()
    memory = (ROOT / "docs" / "memory.md").read_text()
    assert fits.markdown() in memory
    assert fits.ladder() in memory


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


@pytest.mark.parametrize("vocabulary", [512, 151_936])
def test_the_peaks_that_the_benchmark_measured_are_as_planned(assets, vocabulary):
    """docs/performance.md: a process's peak above model, batch and gradients, by packed tokens."""
    shape = model_shape(build_model(assets, vocabulary, 256, torch.device("cpu")))
    config = load(None, ["model.dtype=float32", "model.gradient_checkpointing=none"])
    text = (ROOT / "docs" / "performance.md").read_text()
    for prompts, tokens in ((2, 2796), (4, 5592)):
        row = re.search(
            rf"^\| {vocabulary:,} \| {tokens:,} \|.*\| ([\d,]+) \|$", text, re.MULTILINE
        )
        assert row is not None
        measured = 1e6 * int(row[1].replace(",", ""))
        logits = 4 * min(2**24, tokens * vocabulary)  # the chunk when it was measured
        row = Row(tokens, prompts * 64 * 4, [tokens], [])
        saved = saved_activations(shape, config, row)
        assert saved + logits == pytest.approx(measured, rel=0.1)
