"""The numbers of a step, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from sapo_vl import telemetry
from sapo_vl.schema import Completion, Reward, RolloutGroup


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def report(**changes):
    fields = {
        "rows": [SimpleNamespace(advantage=a) for a in (1.0, -0.5, 0.25)],
        "log_ratio": [array(0.0, math.log(2)), array(math.log(3), 0.0, 0.0), array(0.0)],
        "gate_weight": [array(1.0, 0.786448), array(0.4, 1.0, 1.0), array(1.0)],
        "entropy": [array(1.0, 2.0), array(3.0, 4.0, 5.0), array(3.0)],
        "clamped": 2.0,
        "loss": -0.25,
        "centred": 0.125,
        "grad_norm": 0.5,
    }
    return SimpleNamespace(**(fields | changes))


def test_minibatch_by_hand():
    values = telemetry.minibatch(report(), 1.0, 1.05)
    expected = {
        "gate/mean": (1 + 0.786448 + 0.4 + 1 + 1 + 1) / 6,
        "gate/mean_pos": (1 + 0.786448 + 1) / 3,
        "gate/mean_neg": 2.4 / 3,
        "gate/below_0.9_pos": 1 / 3,
        "gate/below_0.5_pos": 0,
        "gate/below_0.9_neg": 1 / 3,
        "gate/below_0.5_neg": 1 / 3,
        "gate/active": 2 / 6,
        "gate/max_wr_pos": 2 * 0.786448,
        "gate/max_wr_neg": 3 * 0.4,
        # variances of (0, log 2) and (0) for the positive, of (log 3, 0, 0) for the negative
        "ratio/var_pos": (math.log(2) ** 2 / 4 + 0) / 2,
        "ratio/var_neg": 2 / 9 * math.log(3) ** 2,
        "gate/bound_pos": math.log(2) ** 2 / 32,
        "gate/bound_neg": 1.05**2 / 4 * 2 / 9 * math.log(3) ** 2,
        # r - 1 - log r over six tokens
        "ratio/kl": (1 - math.log(2) + 2 - math.log(3)) / 6,
        "ratio/clamped": 2,
        "entropy": 3,
        "loss": -0.25,
        "surrogate": 0.125,
        "grad_norm": 0.5,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # 1st percentile of (0.786448, 1, 1): between the two lowest at 0.02
    assert values["gate/p01_pos"] == pytest.approx(0.786448 + 0.02 * 0.213552, abs=1e-6)


def test_minibatch_of_one_sign_has_no_other():
    one = report(
        rows=[SimpleNamespace(advantage=1.0)],
        log_ratio=[array(0.0)],
        gate_weight=[array(1.0)],
        entropy=[array(1.0)],
    )
    values = telemetry.minibatch(one, 1.0, 1.05)
    assert values["gate/mean_pos"] == 1
    assert not [name for name in values if name.endswith("_neg")]


def test_minibatch_without_rows():
    assert telemetry.minibatch(report(rows=[]), 1.0, 1.05) == {"loss": 0.0}


def group(mu, old, images=(), rewards=(1, 0), valid=(True, True), advantages=(1, -1)):
    return RolloutGroup(
        SimpleNamespace(images=images),
        [Completion([1] * len(m), array(*m), "length", "") for m in mu],
        [Reward(float(r), r > 0, v) for r, v in zip(rewards, valid, strict=True)],
        array(*advantages),
        None if old is None else [array(*o) for o in old],
    )


def test_mismatch_by_hand_and_by_kind():
    groups = [
        group([[-1.0, -1.0], [-2.0]], [[-1.5, -1.0], [-1.75]]),  # +0.5, 0, -0.25
        group([[-1.0], [-1.0]], [[-1.1], [-1.0]], images=("x",)),  # +0.1, 0
        group([[-9.0], [-9.0]], None),  # not trained on: left out
    ]
    values = telemetry.mismatch(groups)

    def kl(*differences):
        return np.mean([math.exp(-d) - 1 + d for d in differences])

    expected = {
        "mismatch/mean_abs": 0.85 / 5,
        "mismatch/max_abs": 0.5,
        "mismatch/kl": kl(0.5, 0, -0.25, 0.1, 0),
        "mismatch/mean_abs_text": 0.25,
        "mismatch/max_abs_text": 0.5,
        "mismatch/kl_text": kl(0.5, 0, -0.25),
        "mismatch/mean_abs_image": 0.05,
        "mismatch/max_abs_image": 0.1,
        "mismatch/kl_image": kl(0.1, 0),
    }
    assert values == pytest.approx(expected, abs=1e-6)


def test_mismatch_of_nothing():
    assert telemetry.mismatch([group([[-1.0], [-1.0]], None)]) == {}


def test_group_rates_by_hand():
    groups = [
        group([[-1] * 4, [-1] * 2], None, rewards=(1, 0)),
        group([[-1] * 2, [-1] * 2], None, rewards=(1, 1), advantages=(0, 0)),
        group([[-1] * 3, [-1] * 1], None, rewards=(0, 0), advantages=(0, 0)),
        group([[-1] * 1, [-1] * 1], None, rewards=(0, 1), valid=(True, False), advantages=(0, 0)),
    ]
    groups[3].completions[0].finish_reason = "stop"
    sums = telemetry.group_sums(groups, 4)
    rates = telemetry.group_rates(sums)
    expected = {
        "reward/mean": 3 / 7,  # the response without verdict counts in neither
        "accuracy": 3 / 7,
        "response/length": 16 / 8,
        "response/cut": 7 / 8,
        "response/no_verdict": 1 / 8,
        "groups/zero_std": 3 / 4,
        "groups/all_right": 1 / 4,
        "groups/all_wrong": 2 / 4,
    }
    assert rates == pytest.approx(expected)


def test_sums_add_up_over_ranks():
    groups = [group([[-1], [-1, -1]], None), group([[-1], [-1]], None, rewards=(1, 1))]
    whole = telemetry.group_sums(groups, 4)
    parts = [telemetry.group_sums([own], 4) for own in groups]
    for name in set(whole) - {"longest"}:
        assert whole[name] == sum(part[name] for part in parts), name


def test_the_gate_that_never_acted_is_explained():
    still = [{"gate/active": 0.0}, {"gate/active": 0.0}]
    assert "REINFORCE" in telemetry.explain_gate(still, 1)
    assert "learning rate" in telemetry.explain_gate(still, 4)
    assert telemetry.explain_gate([*still, {"gate/active": 0.01}], 4) is None
    assert telemetry.explain_gate([], 1) is None
