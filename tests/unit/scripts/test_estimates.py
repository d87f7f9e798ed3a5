"""The estimates in docs/ are what the scripts print, and their arithmetic by hand."""

from __future__ import annotations

import re

import pytest
import torch
from bench import fits, multinode, step_estimate
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
    nodes = (ROOT / "docs" / "multinode.md").read_text()
    assert multinode.sync_table() in nodes
    assert multinode.balance_table() in nodes


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


def test_a_transfer_by_hand():
    """8B: 8,767,123,696 parameters in 750 tensors; rank 32: two in each of 252 linear layers."""
    full, adapter, experts = map(multinode.sync, multinode.CASES)
    assert full.sent == 2 * 8_767_123_696
    assert full.gather == 0  # ZeRO-2
    loading = 750 * 0.5e-3 + 3 * full.sent / (0.8 * 3.35e12)
    assert full.loading == pytest.approx(loading)
    # 100 Gbit/s are 12.5e9 bytes/s, of which 80 % count
    seconds = full.sent / 10e9 + loading
    assert full.seconds(multinode.FAST, 300e9) == pytest.approx(seconds)
    per_layer = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 2 * (4096 + 12_288) + 12_288 + 4096
    assert adapter.sent == 2 * 36 * 32 * per_layer
    assert adapter.loading == pytest.approx(504 * 0.5e-3 + 3 * adapter.sent / (0.8 * 3.35e12))
    assert experts.gather == experts.sent == 2 * 31_070_754_032  # ZeRO-3
    assert experts.loading == pytest.approx(
        (882 + 48 * 3 * 128) * 0.5e-3 + 3 * experts.sent / (0.8 * 3.35e12)
    )


def test_the_division_of_eight_gpus_is_the_best_by_trying_all():
    case = multinode.CASES[0]
    chosen = multinode.best_split(case, 8, multinode.NVLINK)
    tried = [*multinode._splits(case, 8, multinode.NVLINK)]
    assert chosen.learner + chosen.servers == 8
    assert chosen.step == min(max(s.rollout, s.update) + s.sync for s in tried)
    by_learner = {split.learner: split for split in tried}
    assert 1 not in by_learner  # 8.2 billion parameters take 18 bytes each on one card
    assert by_learner[3].rollout < by_learner[4].rollout < by_learner[5].rollout
    assert by_learner[3].update > by_learner[4].update > by_learner[5].update


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
