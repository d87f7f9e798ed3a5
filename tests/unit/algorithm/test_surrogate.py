"""The importance ratio, the mismatch weight and the joining of chunks, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.algorithm import sapo
from sapo_vl.algorithm.surrogate import (
    LOG_RATIO_LIMIT,
    LossInputs,
    concatenate,
    importance_ratio,
    mismatch_weight,
)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_ratio_by_hand():
    logprobs = tensor(math.log(0.6), math.log(0.1)).requires_grad_()
    old = tensor(math.log(0.3), math.log(0.4)).requires_grad_()
    ratio = importance_ratio(logprobs, old)
    assert ratio.r_T.tolist() == pytest.approx([2.0, 0.25], rel=1e-6)
    assert ratio.log_T.tolist() == pytest.approx([math.log(2), -math.log(4)], rel=1e-6)
    assert ratio.clamped.item() == 0
    ratio.r_T.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([2.0, 0.25], rel=1e-6)  # d r = r d logprobs
    assert old.grad is None


def test_ratio_is_clamped_without_a_gradient_beyond_the_limit():
    logprobs = tensor(21.0, -300.0, 20.0).requires_grad_()
    ratio = importance_ratio(logprobs, torch.zeros(3))
    assert ratio.clamped.item() == 2  # the limit itself is inside
    assert ratio.log_T.tolist() == [21.0, -300.0, 20.0]
    limit = math.exp(LOG_RATIO_LIMIT)
    assert ratio.r_T.tolist() == pytest.approx([limit, 1 / limit, limit], rel=1e-6)
    ratio.r_T.sum().backward()
    assert logprobs.grad[:2].tolist() == [0.0, 0.0]


def test_mismatch_weight_by_hand():
    old = torch.tensor([-1.0, -1.0, -1.5, -1.0], requires_grad=True)
    weight = mismatch_weight(old, tensor(-1.0, -1.5, -1.0, -3.0), cap=2.0)
    assert weight.tolist() == pytest.approx([1.0, 1.648721, 0.606531, 2.0], abs=1e-6)
    assert not weight.requires_grad


def test_mismatch_weight_is_finite_at_the_extremes():
    weight = mismatch_weight(tensor(0.0, -1e4), tensor(-1e4, 0.0), cap=5.0)
    assert weight.tolist() == [5.0, 0.0]


@given(st.integers(1, 20), st.sets(st.integers(1, 19)))
def test_chunks_join_to_the_surrogate_of_all_tokens(count, cuts):
    torch.manual_seed(count)
    logprobs, old = torch.randn(count) - 2, torch.randn(count) - 2
    old[0] = logprobs[0] - 30  # one token beyond the limit
    advantages, weights = torch.randn(count), torch.rand(count)
    lengths_R = torch.tensor([count])

    def surrogate(chunk: slice):
        return sapo.loss(
            LossInputs(logprobs[chunk], old[chunk], advantages[chunk], weights[chunk], lengths_R),
            sapo.Options(),
        )

    edges = [0, *sorted(cut for cut in cuts if cut < count), count]
    chunks = [surrogate(slice(a, b)) for a, b in itertools.pairwise(edges)]
    whole, joined = surrogate(slice(None)), concatenate(chunks)
    for field, value in whole._asdict().items():
        torch.testing.assert_close(getattr(joined, field), value, msg=field)
    assert joined.clamped.item() == 1
