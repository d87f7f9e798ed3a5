"""The numbers of a step, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import bare_prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.algorithm import telemetry
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.schema import Reward, Rollout, RolloutGroup

TEMPERATURES = (1.0, 1.05)
TEXT, IMAGE = bare_prompt(), bare_prompt(images=1)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def report(**changes) -> UpdateReport:
    fields = {
        "rollouts": [
            Rollout(IMAGE, [5, 6], advantage=1.0),
            Rollout(TEXT, [5, 6, 7], advantage=-0.5),
            Rollout(TEXT, [5], advantage=0.25),
        ],
        "log_ratio_T": array(0.0, math.log(2), math.log(3), 0.0, 0.0, 0.0),
        "gate_weight_T": array(1.0, 0.786448, 0.4, 1.0, 1.0, 1.0),
        "grad_coefficient_T": array(1.0, 1.572896, 1.2, 1.0, 1.0, 1.0),
        "entropy_T": array(1.0, 2.0, 3.0, 4.0, 5.0, 3.0),
        "clamped": 2.0,
        "loss": -0.25,
        "loss_centered": 0.125,
        "grad_norm": 0.5,
    }
    return UpdateReport(**(fields | changes))


def one_response(advantage, log_ratio_T, weight_T, coefficient_T=None) -> UpdateReport:
    """Return the report of a single response; without coefficients they are the weights."""
    log_ratio_T, weight_T = np.asarray(log_ratio_T), np.asarray(weight_T)
    return report(
        rollouts=[Rollout(TEXT, [5] * len(log_ratio_T), advantage=advantage)],
        log_ratio_T=log_ratio_T,
        gate_weight_T=weight_T,
        grad_coefficient_T=weight_T if coefficient_T is None else coefficient_T,
        entropy_T=np.ones_like(log_ratio_T),
    )


def test_mini_batch_by_hand():
    values = telemetry.mini_batch_stats(report(), TEMPERATURES)
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
        "gate/mean_image": (1 + 0.786448) / 2,
        "gate/mean_text": 3.4 / 4,
        "ratio/kl_image": (1 - math.log(2)) / 2,
        "ratio/kl_text": (2 - math.log(3)) / 4,
        # ratios 1, 2, 3, 1, 1, 1: sum 9, squares 17
        "ratio/ess": 81 / (6 * 17),
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
    # of (0.4, 1, 1): a quarter is half way between the two lowest
    assert values["gate/p25_neg"] == pytest.approx(0.7, abs=1e-6)
    assert values["gate/p50_neg"] == values["gate/p75_neg"] == 1


def test_gap_and_bound_by_hand():
    """One response, ratios 1 and 2, tau 1: log s = log(2)/2, sech^2(log(2)/4) = 0.9705628."""
    one = one_response(1.0, array(0.0, math.log(2)), array(1.0, 0.786448), array(1.0, 1.572896))
    values = telemetry.mini_batch_stats(one, TEMPERATURES)
    assert values["gate/gap_pos"] == pytest.approx(0.9705628 - 0.893224, abs=1e-6)
    assert values["gate/bound_pos"] == pytest.approx(0.1201133 / 4, abs=1e-6)  # 0.0300283
    assert values["gate/bound_broken_pos"] == 1  # r = 2 is no small step


def test_a_bound_broken_by_a_little():
    """log r = +-0.1, tau 1: w = 0.9972399 and 0.9977394, at their mean 1; the variance is 0.01."""
    log_ratio = array(0.1, -0.1)
    weight = telemetry.sech_squared(np.expm1(log_ratio.astype(np.float64)) / 2)
    assert weight == pytest.approx([0.9972399, 0.9977394], abs=1e-6)
    values = telemetry.mini_batch_stats(one_response(1.0, log_ratio, weight), TEMPERATURES)
    assert values["gate/gap_pos"] == pytest.approx(0.0025104, abs=1e-6)
    assert values["gate/bound_pos"] == pytest.approx(0.0025, abs=1e-6)
    assert values["gate/bound_broken_pos"] == 1  # by 1e-5: r - 1 is not quite log r


def test_an_objective_without_temperatures_has_no_theory():
    values = telemetry.mini_batch_stats(report(), None)
    assert not [name for name in values if "gap" in name or "bound" in name]
    assert (
        values["gate/mean_pos"]
        == telemetry.mini_batch_stats(report(), TEMPERATURES)["gate/mean_pos"]
    )


def test_sech_squared_far_out():
    assert telemetry.sech_squared(np.array([0.0, 1.0, -1.0, 1e4])) == pytest.approx(
        [1, 0.41997434, 0.41997434, 0], abs=1e-8
    )


def test_a_ratio_beyond_the_limit_is_clipped():
    """exp(1000) has no number; one token at e^20 outweighs three at 1."""
    one = one_response(1.0, array(1000.0, 0.0, 0.0, 0.0), array(0.0, 1.0, 1.0, 1.0))
    values = telemetry.mini_batch_stats(one, TEMPERATURES)
    assert values["ratio/ess"] == pytest.approx(0.25)
    assert values["ratio/kl"] == pytest.approx((math.exp(20) - 21) / 4)


def test_mini_batch_of_one_sign_has_no_other():
    one = one_response(1.0, array(0.0), array(1.0))
    values = telemetry.mini_batch_stats(one, TEMPERATURES)
    assert values["gate/mean_pos"] == 1
    assert not [name for name in values if name.endswith("_neg")]


def test_mini_batch_without_rollouts():
    assert telemetry.mini_batch_stats(UpdateReport(), TEMPERATURES) == {"loss": 0.0}


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=30))
def test_the_theorem_behind_the_bound(log_ratios):
    """With the gate at log r in place of r - 1 (A1) no response breaks A2's bound."""
    z = np.array(log_ratios, dtype=np.float64)
    weight = telemetry.sech_squared(1.05 / 2 * z)
    values = telemetry.mini_batch_stats(one_response(-1.0, z, weight), TEMPERATURES)
    assert values["gate/bound_broken_neg"] == 0
    assert values["gate/gap_neg"] <= values["gate/bound_neg"] + 1e-9


def test_mini_batches_side_by_side():
    statistics = [{"a": 1.0, "b": 2.0}, {"loss": 0.0}, {"a": 3.0, "b": math.nan}]
    assert telemetry.by_mini_batch(statistics) == {
        "a": [1.0, None, 3.0],
        "b": [2.0, None, None],
        "loss": [None, 0.0, None],
    }
    json.dumps(telemetry.by_mini_batch(statistics), allow_nan=False)
    means = telemetry.averaged(statistics)
    assert (means["a"], means["loss"]) == (2.0, 0.0)
    assert math.isnan(means["b"])
    assert telemetry.averaged([]) == telemetry.by_mini_batch([]) == {}


def group(mu, old, prompt=TEXT, rewards=(1, 0), valid=(True, True), advantages=(1, -1)):
    """Return a group of two; `old` is None for a group that was not trained on."""
    return RolloutGroup(
        prompt,
        [
            Rollout(
                prompt,
                [1] * len(mu[i]),
                finish_reason="length",
                generator_logprobs=array(*mu[i]),
                reward=Reward(float(rewards[i]), rewards[i] > 0, valid[i]),
                advantage=advantages[i],
                old_logprobs=None if old is None else array(*old[i]),
            )
            for i in range(2)
        ],
    )


def test_mismatch_by_hand_and_by_kind():
    groups = [
        group([[-1.0, -1.0], [-2.0]], [[-1.5, -1.0], [-1.75]]),  # +0.5, 0, -0.25
        group([[-1.0], [-1.0]], [[-1.1], [-1.0]], prompt=IMAGE),  # +0.1, 0
        group([[-9.0], [-9.0]], None),  # not trained on: left out
    ]
    values = telemetry.mismatch([telemetry.mismatch_sums(groups)])

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
    by_rank = [telemetry.mismatch_sums([one]) for one in groups]
    assert telemetry.mismatch(by_rank) == pytest.approx(values, abs=1e-12)  # tokens weigh alike


def test_mismatch_of_nothing():
    sums = telemetry.mismatch_sums([group([[-1.0], [-1.0]], None)])
    assert sums == {}
    assert telemetry.mismatch([sums]) == {}


def test_a_mismatch_that_is_no_number_stays_one():
    fine = group([[-1.0], [-1.0]], [[-1.0], [-1.0]])
    broken = group([[-1.0], [-1.0]], [[math.nan], [-1.0]])
    values = telemetry.mismatch([telemetry.mismatch_sums([one]) for one in (fine, broken)])
    assert math.isnan(values["mismatch/mean_abs_text"])
    assert math.isnan(values["mismatch/max_abs_text"])


def test_group_rates_by_hand():
    groups = [
        group([[-1] * 4, [-1] * 2], None, rewards=(1, 0)),
        group([[-1] * 2, [-1] * 2], None, rewards=(1, 1), advantages=(0, 0)),
        group([[-1] * 3, [-1] * 1], None, rewards=(0, 0), advantages=(0, 0)),
        group([[-1] * 1, [-1] * 1], None, rewards=(0, 1), valid=(True, False), advantages=(0, 0)),
    ]
    groups[3].rollouts[0].finish_reason = "stop"
    sums = telemetry.group_sums(groups, 4)
    rates = telemetry.group_rates(sums)
    expected = {
        "reward/mean": 3 / 7,  # the response without verdict counts in neither
        "accuracy": 3 / 7,
        "response/length": 16 / 8,
        "response/length_right": (4 + 2 + 2) / 3,
        "response/length_wrong": (2 + 3 + 1 + 1) / 4,
        "response/length_max": 4,
        "response/length_p95": 4,  # 7 of 8 have at most 3
        "response/repetition": (1 - 1 / 1) / 8,  # the longest has one 4-gram
        "response/cut": 7 / 8,
        "response/no_verdict": 1 / 8,
        "groups/zero_std": 3 / 4,
        "groups/all_right": 1 / 4,
        "groups/all_wrong": 2 / 4,
    }
    assert {name: rates[name] for name in expected} == pytest.approx(expected)


def test_sums_add_up_over_ranks():
    groups = [group([[-1], [-1, -1]], None), group([[-1], [-1]], None, rewards=(1, 1))]
    whole = telemetry.group_sums(groups, 4)
    parts = [telemetry.group_sums([part], 4) for part in groups]
    for name in whole:
        assert whole[name] == sum(part[name] for part in parts), name


def rates_of(lengths, max_new_tokens):
    made = [
        group([[-1.0] * n for n in pair], None) for pair in zip(*[iter(lengths)] * 2, strict=True)
    ]
    return telemetry.group_rates(telemetry.group_sums(made, max_new_tokens))


@given(
    st.integers(1, 100).flatmap(
        lambda limit: st.tuples(st.just(limit), st.lists(st.integers(1, limit), min_size=2))
    )
)
def test_lengths_are_exact_up_to_a_hundred(drawn):
    limit, lengths = drawn
    lengths = lengths[: len(lengths) // 2 * 2]
    values = rates_of(lengths, limit)
    assert values["response/length_max"] == max(lengths)
    rank = math.ceil(0.95 * len(lengths) - 1e-9)  # so many are at most so long
    assert values["response/length_p95"] == sorted(lengths)[rank - 1]


def test_long_lengths_are_the_upper_end_of_their_bin():
    values = rates_of([10, 1024] * 20, 2048)  # bins of 20.48 tokens; 1024 ends the fiftieth
    assert values["response/length_max"] == 1024
    assert rates_of([10, 1025], 2048)["response/length_max"] == 1044  # 51 * 20.48 = 1044.48
    assert rates_of([10, 2048], 2048)["response/length_max"] == 2048


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [
        ([], 0),
        ([1, 1, 1, 1], 0),  # a single 4-gram
        ([1, 1, 1, 1, 1], 1 / 2),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),  # 1234 2341 3412 4123 1234
        ([1, 2, 3, 4, 5, 6], 0),
    ],
)
def test_repetition_by_hand(token_ids, expected):
    assert telemetry.repetition(token_ids) == pytest.approx(expected)


def test_rates_of_nothing_leave_out_what_has_no_mean():
    nothing = telemetry.group_rates(telemetry.group_sums([], 4))
    assert "reward/mean" not in nothing
    assert "response/length_max" not in nothing
    unjudged = [group([[-1], [-1]], None, valid=(False, False))]
    values = telemetry.group_rates(telemetry.group_sums(unjudged, 4))
    assert values["response/no_verdict"] == 1
    assert not {"reward/mean", "accuracy", "response/length_right"} & set(values)


def test_the_cost_of_dynamic_sampling():
    sums = telemetry.group_sums([group([[-1], [-1]], None)] * 4, 4)
    assert "resample/drawn" not in telemetry.group_rates(sums)
    values = telemetry.group_rates(sums | {"resample_drawn": 6.0, "resample_kept": 2.0})
    assert (values["resample/drawn"], values["resample/kept"]) == (1.5, 0.5)
