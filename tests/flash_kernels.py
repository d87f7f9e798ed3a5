"""Stand-ins for aten's flash kernels, by plain matrix products on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from sapo_vl.learner import varlen


@contextmanager
def emulated() -> Iterator[None]:
    """Let the varlen form run without a GPU."""
    with (
        mock.patch.object(varlen, "flash_forward", forward),
        mock.patch.object(varlen, "flash_backward", backward),
    ):
        yield


def forward(q, k, v, queries, keys, causal, scale):
    """Return output, log-sum-exp in float32, and the kernel's two random-state tensors."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], q.shape[0])
    for (a, b), (c, d) in zip(spans(queries), spans(keys), strict=True):
        logits = scores(q[a:b], k[c:d], causal, scale)
        lse[:, a:b] = logits.logsumexp(-1)
        values = v[c:d].float().repeat_interleave(q.shape[1] // v.shape[1], 1)
        out[a:b] = torch.einsum("hqk,khd->qhd", logits.softmax(-1), values).to(q.dtype)
    return out, lse, torch.zeros(2), torch.zeros(())


def backward(grad, q, k, v, out, lse, queries, keys, causal, state, scale):
    """Return the gradients for a given output and log-sum-exp, which need not be the kernel's."""
    grad, out = grad.float(), out.float()
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    for (a, b), (c, d) in zip(spans(queries), spans(keys), strict=True):
        weights = (scores(q[a:b], k[c:d], causal, scale) - lse[:, a:b, None]).exp()
        k_wide, v_wide = (x[c:d].float().repeat_interleave(group, 1) for x in (k, v))
        inner = (grad[a:b] * out[a:b]).sum(-1).T[..., None]
        slope = weights * (torch.einsum("qhd,khd->hqk", grad[a:b], v_wide) - inner) * scale
        dq[a:b] = torch.einsum("hqk,khd->qhd", slope, k_wide).to(q.dtype)
        for total, part, x in ((dk, slope, q), (dv, weights, grad)):
            wide = torch.einsum("hqk,qhd->khd", part, x[a:b].float())
            total[c:d] = wide.unflatten(1, (k.shape[1], group)).sum(2).to(k.dtype)
    return dq, dk, dv


def spans(bounds):
    """Return the (first, end) of each sequence; the longest must be as given."""
    ends = bounds.ends.tolist()
    assert max(b - a for a, b in itertools.pairwise(ends)) == bounds.longest
    return list(itertools.pairwise(ends))


def scores(q, k, causal, scale):
    """Return scaled products [H, Q, K] in float32; where causal, the later ones are -inf."""
    k = k.float().repeat_interleave(q.shape[1] // k.shape[1], 1)
    values = torch.einsum("qhd,khd->hqk", q.float(), k) * scale
    if causal:
        hidden = torch.ones(values.shape[1:]).triu(1).bool()
        values = values.masked_fill(hidden, float("-inf"))
    return values
