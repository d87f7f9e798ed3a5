"""A stand-in for fla's chunk_gated_delta_rule: the recurrence token by token, on a CPU.

Signature, checks and conventions are those of fla-core 0.6.0, fla/ops/gated_delta_rule/chunk.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from sapo_vl.learner import gated_delta, gated_delta_fla

KNOWN = {"use_gate_in_kernel", "A_log", "dt_bias", "chunk_size", "head_first"}


@contextmanager
def emulated() -> Iterator[list[dict]]:
    """Let gated delta nets take the fla form without a GPU; yield a record of the calls."""
    calls: list[dict] = []

    def kernel(*args, **kwargs):
        calls.append({"cu_seqlens": kwargs["cu_seqlens"], "starts": kwargs["initial_state"]})
        return chunk_gated_delta_rule(*args, **kwargs)

    with (
        mock.patch.object(gated_delta, "choose_form", return_value="fla"),
        mock.patch.object(gated_delta_fla, "delta_kernel", return_value=kernel),
    ):
        yield calls


def chunk_gated_delta_rule(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    chunk_indices=None,
    cp_context=None,
    **kwargs,
):
    """Return outputs [1, T, HV, V] in q's type, and float32 states [N, HV, K, V] or None."""
    assert not kwargs.keys() - KNOWN, f"fla would ignore {kwargs.keys() - KNOWN}"
    options = (use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first)
    assert not any(options), "not emulated"
    assert chunk_indices is cp_context is None, "not emulated"
    assert cu_seqlens is not None, "not emulated"
    tokens, heads, width = q.shape[1:]
    value_heads, value_width = v.shape[2:]
    assert q.shape == k.shape == (1, tokens, heads, width)
    assert v.shape == (1, tokens, value_heads, value_width)
    assert g.shape == beta.shape == (1, tokens, value_heads)
    assert q.dtype == k.dtype == v.dtype
    assert value_heads % heads == 0
    assert width <= 256
    assert cu_seqlens.dtype is torch.int64
    assert cu_seqlens.device == q.device
    assert cu_seqlens_cpu is None or cu_seqlens_cpu.tolist() == cu_seqlens.tolist()
    ends = cu_seqlens.tolist()
    assert ends[0] == 0
    assert ends[-1] == tokens
    if initial_state is not None:
        assert initial_state.shape == (len(ends) - 1, value_heads, width, value_width)

    wide = q.dtype if q.dtype == torch.float64 else torch.float32
    q, k, v_HV, g, beta = (x[0].to(wide) for x in (q, k, v, g, beta))
    if use_qk_l2norm_in_kernel:
        q, k = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
        q, k = (x.to(v.dtype).to(wide) for x in (q, k))  # l2norm_fwd stores the input's type
    q = q * (width**-0.5 if scale is None else scale)
    q, k = (x.repeat_interleave(value_heads // heads, 1) for x in (q, k))
    outputs, states = [], []
    for number, (first, end) in enumerate(itertools.pairwise(ends)):
        state = q.new_zeros(value_heads, width, value_width)
        if initial_state is not None:
            state = initial_state[number].to(wide)
        for t in range(first, end):
            state, out = step(state, q[t], k[t], v_HV[t], g[t], beta[t])
            outputs.append(out)
        states.append(state)
    out = torch.stack(outputs)[None].to(v.dtype)
    return out, torch.stack(states) if output_final_state else None


def step(state, q, k, v, g, beta):
    """Return the next state and the output: decay, correct what the key reads, read the query."""
    state = state * g.exp()[:, None, None]
    error = v - torch.einsum("hk,hkv->hv", k, state)
    state = state + torch.einsum("hk,hv->hkv", k, beta[:, None] * error)
    return state, torch.einsum("hk,hkv->hv", q, state)
