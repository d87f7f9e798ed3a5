"""The closing words name the cause that the metrics show, the one that hides the others first."""

from __future__ import annotations

import pytest

from sapo_vl.algorithm.explain import explain

HEALTHY = {
    "response/no_verdict": 0.0,
    "response/cut": 0.1,
    "groups/zero_std": 0.4,
    "groups/all_wrong": 0.2,
    "groups/all_right": 0.2,
    "gate/active": 0.01,
    "ratio/kl": 1e-4,
}
STILL = HEALTHY | {"gate/active": 0.0, "ratio/kl": 0.0}


def words(row: dict, mini_batches: int = 4, gated: bool = True) -> str | None:
    return explain([row, row], mini_batches=mini_batches, gated=gated)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"response/no_verdict": 0.9, "no_verdict": {"slow.py:score: timeout": 9}}, "slow.py"),
        ({"response/cut": 1.0, "groups/all_wrong": 1.0, "groups/zero_std": 1.0}, "max_new_tokens"),
        ({"groups/all_wrong": 1.0, "groups/zero_std": 1.0}, "every response was wrong"),
        ({"groups/all_right": 1.0, "groups/zero_std": 1.0}, "too easy"),
        ({"groups/zero_std": 1.0, "groups/all_wrong": 0.5}, "rewarded alike"),
        ({}, "learning rate too small"),
        ({"ratio/kl": 2e-8}, "KL at most 2.0e-08"),
        ({"gate/active": None}, "never active"),
    ],
)
def test_each_cause_by_its_name(changes, word):
    found = words(STILL | changes)
    assert found is not None
    assert word in found
    if changes and "ratio/kl" not in changes and "gate/active" not in changes:
        assert "learning rate" not in found


def test_no_verdict_comes_before_what_it_causes():
    row = STILL | {"response/no_verdict": 1.0, "response/cut": 1.0, "groups/zero_std": 1.0}
    assert "no verdict" in (words(row) or "")


def test_one_mini_batch_is_reinforce():
    assert "REINFORCE" in (words(STILL, mini_batches=1) or "")


def test_a_healthy_run_needs_no_words():
    assert words(HEALTHY) is None
    assert words(STILL, gated=False) is None  # a clip is no gate
    assert explain([], mini_batches=1, gated=True) is None
    mixed = explain([STILL, HEALTHY], mini_batches=4, gated=True)
    assert mixed is None
