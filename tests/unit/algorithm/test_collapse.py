"""The rules on synthetic runs: healthy ones give no alarm, each kind of collapse its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sapo_vl.algorithm.collapse import (
    ENTROPY_FLOOR,
    NOISE,
    Detector,
    Series,
    first_alarm,
)
from sapo_vl.config.sections import CollapseConfig
from sapo_vl.runs import metrics

OPTIONS = CollapseConfig()


def rows(steps: int = 80, **changes):
    """A run like the main job's; a change is a function of step and healthy value."""
    random = np.random.default_rng(0)
    made = []
    for step in range(1, steps + 1):
        done = min(1.0, step / 40)
        row = {
            "phase": "train",
            "step": step,
            "entropy": 0.05 + 0.55 * math.exp(-step / 15) + random.normal(0, 0.01),
            "gate/mean": 0.9995 - abs(random.normal(0, 0.0005)),
            "ratio/ess": 0.999 - abs(random.normal(0, 0.002)),
            "response/length": 11 + 4 * done + random.normal(0, 0.5),
            "reward/mean": 0.35 + 0.45 * done + random.normal(0, 0.04),
        }
        for name, change in changes.items():
            row[KEYS[name]] = change(step, row[KEYS[name]])
        made.append(row)
    return made


KEYS = {
    "entropy": "entropy",
    "gate": "gate/mean",
    "ess": "ratio/ess",
    "length": "response/length",
    "reward": "reward/mean",
}


def after(step: int, value: float):
    """A change that sets `value` from `step` on."""
    return lambda now, healthy: value if now >= step else healthy


def only(**values):
    """Rows with a single metric, one value per step."""
    ((name, series),) = values.items()
    return [
        {"phase": "train", "step": step, KEYS[name]: value}
        for step, value in enumerate(series, start=1)
    ]


def test_a_healthy_run_has_no_alarm():
    assert first_alarm(rows(), OPTIONS) is None


@pytest.mark.parametrize(
    ("changes", "rule", "step"),
    [
        ({"entropy": after(30, 0.001)}, "entropy_low", 32),
        ({"entropy": after(30, 2.5)}, "entropy_rise", 32),
        ({"gate": after(30, 0.2)}, "gate", 32),
        ({"ess": after(30, 0.05)}, "ess", 32),
        ({"length": after(30, 60.0)}, "length_rise", 32),
        ({"length": after(30, 2.0)}, "length_fall", 32),
        ({"entropy": after(30, math.nan)}, "entropy_low", 32),
        ({"gate": after(1, math.nan)}, "gate", 3),
        # five-step means of .8 then .2: .68, .56, .44, .32: below .4 from the fourth, so fires
        # at the sixth step after the fall
        ({"reward": lambda step, _: 0.8 if step < 30 else 0.2}, "reward_drop", 35),
    ],
)
def test_each_collapse_has_its_alarm(changes, rule, step):
    alarm = first_alarm(rows(**changes), OPTIONS)
    assert alarm is not None
    assert (alarm.rule, alarm.step, alarm.since) == (rule, step, step - 2)
    assert rule in alarm.message


def test_slow_decay_of_the_reward_is_seen():
    def decay(step, healthy):
        return healthy if step < 50 else max(0.2, 0.8 - 0.06 * (step - 49))

    alarm = first_alarm(rows(reward=decay), OPTIONS)
    assert alarm is not None
    assert alarm.rule == "reward_drop"
    # below 0.4 from step 56 on; the mean of five lags two steps, the patience adds two
    assert 58 <= alarm.step <= 62


def test_the_fields_of_an_alarm():
    alarm = first_alarm(only(gate=[0.9, 0.4, 0.3, 0.2]), OPTIONS)
    assert (alarm.rule, alarm.step, alarm.since) == ("gate", 4, 2)
    assert (alarm.value, alarm.threshold) == (0.2, 0.5)
    assert all(text in alarm.message for text in ("gate/mean", "0.2", "0.5", "step 2"))


def test_patience_counts_steps_in_a_row():
    assert first_alarm(only(gate=[0.4, 0.4, 0.6] * 5), OPTIONS) is None
    assert first_alarm(only(gate=[0.4]), CollapseConfig(patience=1)).step == 1


def test_a_rule_fires_once():
    detector = Detector(OPTIONS)
    alarms = detector.replay(only(gate=[0.1] * 5 + [0.9] * 5 + [0.1] * 5))
    assert [alarm.step for alarm in alarms] == [3]


def test_two_rules_at_one_step():
    row = {"phase": "train", "gate/mean": 0.1, "ratio/ess": 0.1}
    alarms = Detector(OPTIONS).replay([row | {"step": step} for step in (1, 2, 3)])
    assert [(alarm.rule, alarm.step) for alarm in alarms] == [("gate", 3), ("ess", 3)]


def test_a_missing_metric_is_skipped_and_null_counts_as_beyond():
    """A step whose groups were all dropped has no gate; a NaN is logged as null."""
    bare = {"phase": "train", "step": 9}
    low = only(gate=[0.1, 0.1])
    assert Detector(OPTIONS).replay([*low, bare]) == []
    assert len(Detector(OPTIONS).replay([*low, bare, *only(gate=[0.1])])) == 1
    (alarm,) = Detector(OPTIONS).replay([*low, *only(gate=[None])])
    assert math.isnan(alarm.value)
    assert "not finite" in alarm.message


def test_other_phases_are_ignored():
    evaluations = [row | {"phase": "eval"} for row in only(gate=[0.1] * 9)]
    assert first_alarm(evaluations, OPTIONS) is None


def test_an_objective_that_clips_has_no_gate_rule():
    """Its share of tokens inside the bounds may be low in a healthy run (GSPO)."""
    low = only(gate=[0.2] * 9)
    assert first_alarm(low, OPTIONS).rule == "gate"
    assert first_alarm(low, OPTIONS, gated=False) is None


def test_start_is_the_mean_of_five():
    first = [9.0, 10.0, 11.0, 12.0, 8.0]  # start 10: alarms above 30 and below 3.33
    assert first_alarm(only(length=[*first, 30.0, 30.0, 30.0]), OPTIONS) is None
    alarm = first_alarm(only(length=[*first, 30.1, 30.1, 30.1]), OPTIONS)
    assert (alarm.rule, alarm.threshold) == ("length_rise", pytest.approx(30))
    assert first_alarm(only(length=[*first, 3.4, 3.4, 3.4]), OPTIONS) is None
    assert first_alarm(only(length=[*first, 3.3, 3.3, 3.3]), OPTIONS).rule == "length_fall"
    assert first_alarm(only(length=[1.0, 100.0, 100.0, 100.0]), OPTIONS) is None


def test_a_low_entropy_at_the_start_is_floored():
    assert first_alarm(only(entropy=[0.02] * 5 + [0.08] * 5), OPTIONS) is None
    alarm = first_alarm(only(entropy=[0.02] * 5 + [0.31] * 5), OPTIONS)
    assert alarm.threshold == pytest.approx(OPTIONS.entropy_rise * ENTROPY_FLOOR)


def test_noise_by_hand():
    series = Series()
    for value in (0.0, 0.2, 0.0, 0.2, 0.1):  # squared differences .04, .04, .04, .01
        series.add(value)
    assert series.start == series.moving == series.best == pytest.approx(0.1)
    assert series.noise == pytest.approx(math.sqrt(0.13 / 4 / 2 / 5))


def coins(rate, steps: int, responses: int, seed: int):
    random = np.random.default_rng(seed)
    return only(reward=[random.binomial(responses, rate) / responses for _ in range(steps)])


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("responses", [8, 64, 512])
def test_a_policy_that_never_learns_is_no_alarm(rate, responses):
    for seed in range(10):
        assert first_alarm(coins(rate, 200, responses, seed), OPTIONS) is None


def test_a_warmed_up_policy_that_falls_from_its_start():
    falls = only(reward=[0.32] * 10 + [0.05] * 20)
    alarm = first_alarm(falls, OPTIONS)
    assert alarm.rule == "reward_drop"
    assert alarm.threshold <= 0.16


def test_a_reward_below_zero_counts_from_its_start():
    """-0.8 to 0.2 is a gain of 1: half of it is lost at -0.3."""
    learned = [-0.8] * 5 + [-0.8 + 0.02 * i for i in range(50)] + [0.2] * 10
    assert first_alarm(only(reward=[*learned, *[-0.2] * 10]), OPTIONS) is None
    alarm = first_alarm(only(reward=[*learned, *[-0.5] * 10]), OPTIONS)
    assert alarm.threshold == pytest.approx(-0.3)


def test_the_noise_bounds_the_threshold():
    swings = [0.35, 0.45] * 20
    (alarm,) = Detector(OPTIONS).replay(only(reward=[*swings, *[0.0] * 20]))
    series = Series()
    for value in [*swings, *[0.0] * (alarm.step - 40)]:
        series.add(value)
    assert alarm.threshold == pytest.approx(
        min(series.best / 2, series.best - NOISE * series.noise)
    )
    assert series.best == pytest.approx(0.41)
    assert alarm.threshold < 0.41 / 2


@pytest.mark.parametrize("cut", [1, 4, 31, 33, 60])
def test_replay_after_a_resume_changes_nothing(tmp_path, cut):
    """Read back from metrics.jsonl, where non-finite values are null."""
    run = rows(entropy=after(30, math.nan), gate=after(40, 0.1), reward=after(50, 0.0))
    whole = Detector(OPTIONS).replay(run)
    assert {alarm.rule for alarm in whole} == {"entropy_low", "entropy_rise", "gate", "reward_drop"}
    writer = metrics.MetricsWriter(tmp_path)
    for row in run[:cut]:
        writer.write(row)
    writer.close()
    again = Detector(OPTIONS)
    alarms = [*again.replay(metrics.read(tmp_path)), *again.replay(run[cut:])]
    assert [(a.rule, a.step, a.since, a.message) for a in alarms] == [
        (a.rule, a.step, a.since, a.message) for a in whole
    ]
