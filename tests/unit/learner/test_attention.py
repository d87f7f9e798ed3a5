"""Shared-prefix attention: the layout by hand, and the three forms against plain masked softmax."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.learner import attention
from sapo_vl.learner.attention import SharedPrefix

CPU = torch.device("cpu")
GROUPS = [(3, [2, 1]), (2, []), (4, [1, 0, 5])]


def plain(q, k, v, groups, scale):
    """Each response on a sequence of its own: softmax over prompt and response, causally."""
    heads = q.shape[1]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    out = torch.zeros_like(q)
    start = 0
    for prompt, lengths in groups:
        spans, first = [list(range(start, start + prompt))], start + prompt
        for length in lengths:
            spans.append(list(range(start, start + prompt)) + list(range(first, first + length)))
            first += length
        for span in spans:
            index = torch.tensor(span)
            scores = torch.einsum("qhd,khd->hqk", q[index], k[index]) * scale
            hidden = torch.ones(len(span), len(span)).triu(1).bool()
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            values = torch.einsum("hqk,khd->qhd", weights, v[index])
            out = out.index_copy(0, index, values)
        start = first
    return out


def tensors(groups, heads=4, kv=2, width=16, seed=0):
    total = sum(p + sum(r) for p, r in groups)
    generator = torch.Generator().manual_seed(seed)
    shapes = ((total, heads, width), (total, kv, width), (total, kv, width))
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


def call(form, q, k, v, layout, scale=0.3):
    batched = [x.transpose(0, 1)[None] for x in (q, k, v)]
    return attention.FORMS[form](None, *batched, None, scaling=scale, layout=layout)[0][0]


def test_layout_by_hand():
    layout = SharedPrefix.build(GROUPS, CPU)
    assert layout.group_T.tolist() == [0] * 6 + [1] * 2 + [2] * 10
    assert layout.response_T.tolist() == [0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0, 0, 3, 5, 5, 5, 5, 5]
    positions = sorted(t for part in layout.causal for t in part.tokens_N.tolist())
    assert positions == list(range(18))  # every token attends to its own segment exactly once
    crossing = sorted(t for part, _ in layout.cross for t in part.tokens_N.tolist())
    assert crossing == [3, 4, 5, 12, 13, 14, 15, 16, 17]  # all response tokens


@pytest.mark.parametrize("form", ["cascade", "dense"])
def test_values_and_gradients_are_those_of_separate_sequences(form):
    q, k, v = tensors(GROUPS)
    weights = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    (plain(q, k, v, GROUPS, 0.3) * weights).sum().backward()
    expected = [x.grad.clone() for x in (q, k, v)]
    for x in (q, k, v):
        x.grad = None
    out = call(form, q, k, v, SharedPrefix.build(GROUPS, CPU))
    torch.testing.assert_close(out, plain(q, k, v, GROUPS, 0.3), atol=2e-6, rtol=1e-5)
    (out * weights).sum().backward()
    for x, expected_grad in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(x.grad, expected_grad, atol=5e-6, rtol=1e-5)


def test_flex_sees_the_same_tokens():
    q, k, v = (x.detach() for x in tensors(GROUPS))  # its backward pass exists on CUDA only
    out = call("flex", q, k, v, SharedPrefix.build(GROUPS, CPU))
    torch.testing.assert_close(out, plain(q, k, v, GROUPS, 0.3), atol=2e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.lists(st.integers(0, 12), max_size=5)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 100),
)
def test_cascade_equals_dense_for_any_layout(groups, seed):
    q, k, v = tensors(groups, seed=seed)
    layout = SharedPrefix.build(groups, CPU)
    results = []
    for form in ("cascade", "dense"):
        out = call(form, q, k, v, layout)
        out.square().sum().backward()
        results.append([out.detach(), *(x.grad.clone() for x in (q, k, v))])
        for x in (q, k, v):
            x.grad = None
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_large_scores_do_not_overflow():
    q, k, v = tensors(GROUPS)
    out = call("cascade", q * 200, k, v, SharedPrefix.build(GROUPS, CPU))
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_the_best_form_of_each_device():
    assert attention.best_form(CPU) == "cascade"
    assert attention.best_form(torch.device("cuda")) == "flex"
    assert attention.best_form(torch.device("meta")) == "dense"
