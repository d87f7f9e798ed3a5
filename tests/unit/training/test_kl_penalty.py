"""The KL penalty in a run: when the reference scores, what is kept, what a plan counts for it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_training import Learner, sampled, steps

from sapo_vl.algorithm.telemetry import UpdateReport, mini_batch_stats
from sapo_vl.config import load
from sapo_vl.errors import DataError
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.training import checkpoint
from sapo_vl.training.plan.fit import make_plan
from sapo_vl.training.plan.hardware import gpus
from sapo_vl.training.plan.learner import learner_states
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.shape import model_shape

KL = ("algorithm.kl_coef=0.1", "checkpoint.every=1", "run.rollouts_every=1", "rollout.steps=4")


def right(i: int) -> int:
    """Return the right answers of two to record i: a third of the groups has no gradient."""
    return i % 3 and 1


def test_the_reference_scores_what_is_trained_on_once_a_step(build, tmp_path):
    made = build(right, *KL)
    steps(made, 2)
    assert made.learner.reference_passes == 2
    rows = pq.read_table(tmp_path / "run/rollouts/step_000002.parquet").to_pylist()
    kept = [row["reference_logprobs"] for row in rows]
    assert [value is None for value in kept] == [row["advantage"] == 0 for row in rows]
    for row in rows:
        if row["reference_logprobs"] is not None:
            assert row["reference_logprobs"] == [-0.5, -1.5]  # the fake's: half a nat above


def test_without_a_coefficient_there_is_no_reference(build, tmp_path, monkeypatch):
    def refused(*_):
        raise AssertionError

    monkeypatch.setattr(Learner, "keep_reference", refused)
    monkeypatch.setattr(Learner, "fill_reference_logprobs", refused)
    made = build(right, "run.rollouts_every=1")
    steps(made, 1)
    rows = pq.read_table(tmp_path / "run/rollouts/step_000001.parquet").to_pylist()
    assert {row["reference_logprobs"] for row in rows} == {None}
    assert not (tmp_path / "run/inputs.json").exists()


def test_a_step_that_goes_on_has_its_reference_or_gets_it(build):
    """From a checkpoint between mini-batches; with the penalty turned on there, too."""
    for name, before, passes in (("on", KL, 0), ("turned on", KL[1:], 1)):
        first = build(right, *before, name=name, signal_at=6)
        with pytest.raises(RunInterrupted):
            steps(first, 3)
        second = build(right, *KL, name=name)
        second.state = checkpoint.load(checkpoint.latest(second.checkpoints), second.learner)
        assert second.state.mini_batch == 2
        second.version = second.state.step
        steps(second, 2)
        assert second.learner.reference_passes == passes


def test_a_reference_that_has_changed_is_refused(build, monkeypatch):
    build(right, *KL)
    build(right, *KL)  # resumed
    monkeypatch.setattr(Learner, "digest", "other")
    with pytest.raises(DataError, match=r"algorithm\.kl_coef"):
        build(right, *KL)


def test_fillers_need_no_reference(build):
    made = build(lambda i: 0, *KL)
    batch, _ = sampled(made)
    assert all(r.is_filler for mini_batch in batch.mini_batches() for r in mini_batch)
    made.fill_reference_logprobs(batch)
    assert made.learner.reference_passes == 0


def test_statistics_by_hand(build):
    made = build(right, *KL)
    batch, _ = sampled(made)
    (first, *_), ones = batch.mini_batches()[0], np.ones(2, np.float32)
    report = UpdateReport(
        [first],
        loss=0.3,
        penalty=0.1,
        log_ratio_T=0 * ones,
        gate_weight_T=ones,
        grad_coefficient_T=ones,
        entropy_T=ones,
        logprobs_T=-ones,
        reference_kl_T=np.array([0.5, 0.1], np.float32),
    )
    stats = mini_batch_stats(report, None)
    names = {name: stats[name] for name in stats if name.startswith("kl/")}
    assert names == pytest.approx({"kl/reference": 0.3, "kl/reference_max": 0.5, "kl/penalty": 0.1})
    report.reference_kl_T = report.reference_kl_T[:0]
    assert not any(name.startswith("kl/") for name in mini_batch_stats(report, None))


@pytest.mark.parametrize(
    ("keys", "share"),
    [
        (("learner.zero_stage=2",), 1.0),  # the whole policy on each rank
        (("learner.zero_stage=3",), 0.5),
    ],
)
def test_what_a_plan_counts_by_hand(keys, share):
    """A copy of the trained weights in host memory, a forward pass and four transfers a step."""
    plain, penalized = (
        load(None, ["model.path=Qwen3-VL-2B", *keys, *more]) for more in ((), KL[:1])
    )
    shape = model_shape(module_on_meta(plain)[0])
    copy = 2 * shape.trained * share
    before, after = (learner_states(shape, config, 2) for config in (plain, penalized))
    assert after.host - before.host == copy
    assert after.resting == before.resting
    without, with_kl = (make_plan(config, shape, gpus(80, 2)) for config in (plain, penalized))
    assert with_kl.host.states - without.host.states == 2 * copy
    assert with_kl.peak.total == without.peak.total
    one_pass = without.seconds.old_logprobs / (1 - 1 / 4)  # of three of four mini-batches
    expected = one_pass + 4 * copy / 25e9
    assert with_kl.seconds.reference == pytest.approx(expected)
    gathers = 2 * shape.parameters * without.work.rows / 2 / without.hardware.gpu.link
    longer = with_kl.seconds.total - without.seconds.total
    assert longer == pytest.approx(expected + gathers * (share < 1))
    assert without.seconds.reference == 0.0


def test_the_metrics_row_has_the_penalty(build, tmp_path):
    """The fake's reports have none; its name is summed over ranks all the same."""
    made = build(right, *KL)
    rows = []
    made.writer = type("Writer", (), {"write": lambda self, row: rows.append(row)})()
    steps(made, 1)
    (row,) = rows
    assert row["kl/penalty"] == 0.0
    assert "seconds/reference" in row
    assert json.loads((tmp_path / "run/inputs.json").read_text()).popitem()[1] == "start"
