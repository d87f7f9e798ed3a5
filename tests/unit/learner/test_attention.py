"""Shared-prefix attention: the layout by hand, and the three forms against plain masked softmax."""

from __future__ import annotations

import pytest
import torch
from flash_kernels import emulated
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.errors import ConfigError
from sapo_vl.learner import attention
from sapo_vl.learner.attention import SharedPrefix
from sapo_vl.learner.varlen import VarlenPlan

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


def test_on_a_gpu_flex_has_one_kernel_for_rows_of_any_length(monkeypatch):
    """Its decoding kernel, which it would take for rows under 128 tokens, has no float32 form."""
    called = []

    def attend(query, key, value, **options):
        called.append(options)
        return query

    monkeypatch.setattr(attention, "_flex_functions", lambda on_gpu: (attend, lambda *_: "mask"))
    monkeypatch.setattr(attention, "_on_gpu", lambda tensor: True)
    call("flex", *(x.detach() for x in tensors(GROUPS)), SharedPrefix.build(GROUPS, CPU))
    assert called[0]["kernel_options"] == {"BACKEND": "TRITON"}


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


CUDA, META = torch.device("cuda"), torch.device("meta")


@pytest.mark.parametrize(
    ("choice", "device", "dtype", "width", "form"),
    [
        ("auto", CPU, torch.float32, 32, "cascade"),
        ("auto", CPU, torch.bfloat16, 128, "cascade"),
        ("auto", META, torch.bfloat16, 128, "dense"),
        ("auto", CUDA, torch.bfloat16, 128, "varlen"),
        ("auto", CUDA, torch.float16, 256, "varlen"),
        ("auto", CUDA, torch.float32, 128, "flex"),
        ("auto", CUDA, torch.bfloat16, 264, "flex"),
        ("auto", CUDA, torch.bfloat16, 36, "flex"),
        ("flex", CUDA, torch.bfloat16, 128, "flex"),
        ("varlen", CUDA, torch.bfloat16, 8, "varlen"),
    ],
)
def test_the_form_of_each_device_and_model(choice, device, dtype, width, form):
    assert attention.choose_form(choice, device, dtype, width) == form


@pytest.mark.parametrize(
    ("choice", "device", "dtype", "width", "words"),
    [
        ("flex", CPU, torch.float32, 32, r"learner\.attention=flex needs a GPU"),
        ("varlen", META, torch.float32, 32, r"learner\.attention=varlen needs a GPU"),
        ("varlen", CUDA, torch.float32, 128, r"model\.dtype=bfloat16, not float32"),
        ("varlen", CUDA, torch.bfloat16, 320, "multiple of 8 up to 256, not 320"),
    ],
)
def test_a_form_that_cannot_run_is_refused(choice, device, dtype, width, words):
    with pytest.raises(ConfigError, match=words):
        attention.choose_form(choice, device, dtype, width)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.lists(st.integers(0, 12), max_size=5)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 100),
)
def test_varlen_equals_dense_for_any_layout(groups, seed):
    """The kernels are emulated: their calls, the merge and both gradients are what is tested."""
    q, k, v = tensors(groups, seed=seed)
    layout = SharedPrefix.build(groups, CPU)
    layout.plan = VarlenPlan.build(groups, CPU)
    results = []
    with emulated():
        for form in ("varlen", "dense"):
            out = call(form, q, k, v, layout)
            out.square().sum().backward()
            results.append([out.detach(), *(x.grad.clone() for x in (q, k, v))])
            for x in (q, k, v):
                x.grad = None
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_kernels_have_the_signature_that_varlen_calls():
    names = [a.name for a in torch.ops.aten._flash_attention_forward.default._schema.arguments]
    assert names[:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p",
        "is_causal", "return_debug_mask",
    ]  # fmt: skip
    names = [a.name for a in torch.ops.aten._flash_attention_backward.default._schema.arguments]
    assert names[:14] == [
        "grad_out", "query", "key", "value", "out", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q",
        "max_k", "dropout_p", "is_causal", "rng_state", "unused",
    ]  # fmt: skip
