"""A rank's state comes back as it was, to the last bit, and reading it runs no code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.schema import Outcome, Reward, Sample, Verdict
from sapo_vl.training.state_file import read_state, write_state

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.recursive(
    PLAIN | st.binary() | st.sampled_from(Outcome),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=60)
@given(state=STATES)
def test_values_come_back(state, tmp_path):
    write_state(tmp_path / "s", state)
    found = read_state(tmp_path / "s")
    assert found == state
    assert repr(found) == repr(state)  # 1 is not 1.0, a tuple no list


def test_arrays_and_records_come_back(tmp_path):
    verdict = Verdict(Outcome.WRONG, 0.1, "no", extracted="7")
    sample = Sample("a", "d", "t", "<image>?", (b"\x00\xff",), "7", metadata={"tuple": [1, None]})
    state = {
        "reward": Reward(0.1, correct=False, valid=True, terms={"boxed": verdict}),
        "sample": sample,
        "nan": math.nan,
        "logprobs": np.array([0.1, -np.inf], np.float32),
        "empty": np.zeros((0, 3), np.int64),
        "scalar": np.float64(0.1),
        "tensor": torch.arange(4, dtype=torch.uint8),
    }
    write_state(tmp_path / "s", state)
    found = read_state(tmp_path / "s")
    assert found["reward"] == state["reward"]
    assert found["sample"] == sample
    assert math.isnan(found["nan"])
    assert found["scalar"] == 0.1
    for name in ("logprobs", "empty"):
        assert found[name].dtype == state[name].dtype
        np.testing.assert_array_equal(found[name], state[name])
    assert torch.equal(found["tensor"], state["tensor"])
    assert found["tensor"].dtype is torch.uint8


def test_what_it_cannot_hold_is_refused_when_written(tmp_path):
    for value in (print, {1: 2}, np.array([print], dtype=object), {1, 2}):
        with pytest.raises(TypeError, match="can't hold"):
            write_state(tmp_path / "s", [value])


@pytest.mark.parametrize("text", ["{", '{"print": 1}', '{"Sample": {"x": 1}}', '{"array": "a9"}'])
def test_a_foreign_file_is_an_error(tmp_path, text):
    with (tmp_path / "s").open("wb") as stream:
        np.savez(stream, json=np.frombuffer(text.encode(), np.uint8))
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_state(tmp_path / "s")
