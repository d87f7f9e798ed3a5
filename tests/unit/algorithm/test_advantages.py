"""Group-relative advantages by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.algorithm.advantages import group_advantages


def advantages(rewards, valid=None, *, normalize=True):
    rewards = np.array(rewards, dtype=float)
    valid = np.ones(len(rewards), bool) if valid is None else np.array(valid)
    return group_advantages(rewards, valid, normalize=normalize)


def test_half_right():
    assert advantages([1, 0, 0, 1]).tolist() == [1.0, -1.0, -1.0, 1.0]


def test_one_of_four_right():
    # mean 1/4, population std sqrt(3)/4: (3/4) / (sqrt(3)/4) = sqrt(3), and -1/sqrt(3)
    assert advantages([1, 0, 0, 0]).tolist() == pytest.approx(
        [1.7320508, -0.5773503, -0.5773503, -0.5773503]
    )


def test_without_std_only_the_mean_is_subtracted():
    assert advantages([1, 0, 0, 0], normalize=False).tolist() == [0.75, -0.25, -0.25, -0.25]


def test_a_response_without_verdict_counts_nowhere():
    assert advantages([1, 0, 99], [True, True, False]).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("rewards", [[1, 1, 1], [0, 0, 0], [0.1 + 0.2, 0.3, 0.3]])
def test_equal_rewards_give_zero(rewards):
    assert advantages(rewards).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("valid", [[True, False], [False, False]])
def test_fewer_than_two_verdicts_give_zero(valid):
    assert advantages([1, 0], valid).tolist() == [0.0, 0.0]


@given(
    st.lists(st.integers(0, 10), min_size=2, max_size=16),
    st.floats(0.1, 10),
    st.floats(-5, 5),
)
def test_centered_scaled_and_blind_to_the_scale_of_rewards(rewards, scale, shift):
    out = advantages(rewards)
    assert out.dtype == np.float32
    assert out.sum() == pytest.approx(0, abs=1e-4)
    if len(set(rewards)) > 1:
        assert out.std() == pytest.approx(1, abs=1e-5)
    moved = advantages(np.array(rewards) * scale + shift)
    np.testing.assert_allclose(moved, out, atol=1e-4)
