"""The learner's planning of micro-batches and its per-token constants, without a model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import bare_prompt

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.surrogate import Surrogate
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import load
from sapo_vl.learner.engine import Learner, _append
from sapo_vl.learner.logprobs import ResponseLogprobs
from sapo_vl.learner.padded import PaddedLayout
from sapo_vl.learner.token_constants import token_constants
from sapo_vl.schema import Rollout

CPU = torch.device("cpu")


def planner(budget: int) -> Learner:
    """Return as much of a learner as planning needs: a layout and a token budget."""
    learner = Learner.__new__(Learner)
    learner._policy = SimpleNamespace(layout=PaddedLayout(image_token_id=9, pad_id=0))
    learner._options = load(None, [f"learner.micro_batch_tokens={budget}"]).learner
    return learner


def test_fillers_make_up_for_another_ranks_micro_batches(monkeypatch):
    """The filler is the shortest rollout, a copy that does not count."""
    rollouts = [
        Rollout(bare_prompt(length), [1] * response, advantage=1.0)
        for length, response in ((9, 3), (2, 3), (4, 4))
    ]
    learner = planner(100)
    assert learner._micro_batches(rollouts) == [[rollouts[0], rollouts[2], rollouts[1]]]
    monkeypatch.setattr("sapo_vl.system.distributed.all_reduce_max", lambda count: count + 2.0)
    whole, *fillers = learner._micro_batches(rollouts)
    assert len(whole) == 3
    assert [len(batch) for batch in fillers] == [1, 1]
    for (filler,) in fillers:
        assert filler.length == 5
        assert filler.prompt is rollouts[1].prompt
        assert filler.is_filler
    assert not any(rollout.is_filler for rollout in rollouts)


def test_token_constants_by_hand():
    batch = [
        Rollout(
            bare_prompt(),
            [1, 2, 3],
            advantage=2.0,
            generator_logprobs=np.array([-1, -2, -3], np.float32),
            old_logprobs=np.array([-1.5, -2.5, -3.5], np.float32),
        ),
        Rollout(
            bare_prompt(),
            [4],
            advantage=-1.0,
            generator_logprobs=np.array([-4], np.float32),
            old_logprobs=np.array([-4.5], np.float32),
            is_filler=True,
        ),
    ]
    constants = token_constants(batch, objectives.build(load(None, [])), 4.0, CPU)
    assert constants.advantages_T.tolist() == [2.0, 2.0, 2.0, -1.0]
    assert constants.weights_T.tolist() == pytest.approx([1 / 12] * 3 + [0])  # 1 / (3 * 4)
    assert constants.generator_logprobs_T.tolist() == [-1, -2, -3, -4]
    assert constants.old_logprobs_T.tolist() == [-1.5, -2.5, -3.5, -4.5]
    assert constants.lengths_R.tolist() == [3, 1]
    batch[0].old_logprobs = None  # one without is enough: the forward's own are taken for all
    token_mean = objectives.build(load(None, ["objective=cispo"]))
    constants = token_constants(batch, token_mean, 4.0, CPU)
    assert constants.old_logprobs_T is None
    assert constants.weights_T.tolist() == [0.25, 0.25, 0.25, 0]


def test_a_report_leaves_fillers_out_wherever_they_stand():
    batch = [
        Rollout(bare_prompt(), [1, 2], is_filler=True),
        Rollout(bare_prompt(), [3, 4, 5]),
    ]
    values_T = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    scalar = torch.tensor(0.5)
    surrogate = Surrogate(scalar, scalar, values_T, values_T, values_T, torch.tensor(0))
    report, tokens = UpdateReport(), defaultdict(list)
    _append(report, tokens, batch, ResponseLogprobs(-values_T, values_T), surrogate)
    assert report.rollouts == [batch[1]]
    assert [array.tolist() for array in tokens["gate_weight_T"]] == [[3, 4, 5]]
    assert [array.tolist() for array in tokens["logprobs_T"]] == [[-3, -4, -5]]
    assert set(tokens) == {
        "log_ratio_T",
        "gate_weight_T",
        "grad_coefficient_T",
        "entropy_T",
        "logprobs_T",
    }
    assert (report.loss, report.loss_centered) == (0.5, 0.5)
