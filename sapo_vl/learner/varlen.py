"""Shared-prefix attention on CUDA by aten's flash kernels: no compiler, no padding.

The cascade of attention.py with sequence bounds instead of padded batches: one call for every
segment's causal attention to itself, one for the responses' attention to their prompt, merged by
log-sum-exp. The backward calls get the merged output and log-sum-exp, which makes each return its
share of the gradient. bfloat16 or float16, heads may be grouped (that is the kernels' own).

Legend: T tokens of a row, N response tokens, P prompt tokens with responses, H query heads, K
key-value heads, D head width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sequences that lie one after the other in a tensor."""

    ends: Tensor  # int32 [sequences + 1], cumulative lengths from 0
    longest: int

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Bounds:
        """Return the bounds of sequences of these lengths."""
        ends = list(itertools.accumulate(lengths, initial=0))
        return Bounds(torch.tensor(ends, dtype=torch.int32, device=device), max(lengths, default=0))


@dataclass(frozen=True, slots=True)
class VarlenPlan:
    """Which tokens of a packed row the two calls take."""

    segments: Bounds  # prompts and responses, in the row's order
    queries: Bounds  # all responses of a prompt as one sequence
    keys: Bounds  # those prompts
    query_N: Tensor  # indices of the response tokens in the row
    key_P: Tensor  # indices of the tokens of prompts that have responses

    @staticmethod
    def build(groups: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> VarlenPlan:
        """Plan groups of (prompt length, response lengths), as SharedPrefix.build does."""
        segments, queries, keys, query, key, start = [], [], [], [], [], 0
        for prompt, lengths in groups:
            total = sum(lengths)
            segments += [prompt, *(length for length in lengths if length)]
            if total:
                queries.append(total)
                keys.append(prompt)
                key.append(torch.arange(start, start + prompt))
                query.append(torch.arange(start + prompt, start + prompt + total))
            start += prompt + total
        empty = torch.zeros(0, dtype=torch.long)
        return VarlenPlan(
            Bounds.of(segments, device),
            Bounds.of(queries, device),
            Bounds.of(keys, device),
            torch.cat([empty, *query]).to(device),
            torch.cat([empty, *key]).to(device),
        )


def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, plan: VarlenPlan, scale: float) -> Tensor:
    """Return the attention output [T, H, D] of a packed row, differentiable."""
    out_THD: Tensor = _VarlenCascade.apply(
        q_THD.contiguous(), k_TKD.contiguous(), v_TKD.contiguous(), plan, scale
    )
    return out_THD


def flash_forward(
    q: Tensor, k: Tensor, v: Tensor, queries: Bounds, keys: Bounds, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call the kernel: output [T, H, D], log-sum-exp [H, T] and its two random-state tensors."""
    out, lse, state, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, queries.ends, keys.ends, queries.longest, keys.longest, 0.0, causal, False,
        scale=scale,
    )  # fmt: skip
    return out, lse, state, unused


def flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    queries: Bounds, keys: Bounds, causal: bool, state: tuple[Tensor, Tensor], scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Call the kernel: gradients of q, k and v."""
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, lse, queries.ends, keys.ends, queries.longest, keys.longest, 0.0,
        causal, *state, scale=scale,
    )  # fmt: skip
    return dq, dk, dv


class _VarlenCascade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, plan: VarlenPlan, scale: float
    ) -> Tensor:
        out_THD, lse_HT, *state = flash_forward(
            q_THD, k_TKD, v_TKD, plan.segments, plan.segments, True, scale
        )
        if len(plan.query_N):
            cross_NHD, cross_HN, *_ = flash_forward(
                q_THD[plan.query_N], k_TKD[plan.key_P], v_TKD[plan.key_P],
                plan.queries, plan.keys, False, scale,
            )  # fmt: skip
            self_HN = lse_HT[:, plan.query_N]
            merged_HN = torch.logaddexp(self_HN, cross_HN)
            self_NHD = out_THD[plan.query_N].float() * _share(self_HN, merged_HN)
            cross_NHD = cross_NHD.float() * _share(cross_HN, merged_HN)
            out_THD[plan.query_N] = (self_NHD + cross_NHD).to(out_THD.dtype)
            lse_HT[:, plan.query_N] = merged_HN
        ctx.save_for_backward(q_THD, k_TKD, v_TKD, out_THD, lse_HT, *state)
        ctx.plan, ctx.scale = plan, scale
        return out_THD

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_THD, k_TKD, v_TKD, out_THD, lse_HT, *state = ctx.saved_tensors
        plan: VarlenPlan = ctx.plan
        grad_THD = grad_THD.contiguous()
        dq, dk, dv = flash_backward(
            grad_THD, q_THD, k_TKD, v_TKD, out_THD, lse_HT,
            plan.segments, plan.segments, True, tuple(state), ctx.scale,
        )  # fmt: skip
        if len(plan.query_N):
            rows, keys = plan.query_N, plan.key_P
            cross_dq, cross_dk, cross_dv = flash_backward(
                grad_THD[rows], q_THD[rows], k_TKD[keys], v_TKD[keys], out_THD[rows],
                lse_HT[:, rows].contiguous(), plan.queries, plan.keys, False, tuple(state),
                ctx.scale,
            )  # fmt: skip
            dq[rows] += cross_dq  # each row and each key occurs once
            dk[keys] += cross_dk
            dv[keys] += cross_dv
        return dq, dk, dv, None, None


def _share(lse_HN: Tensor, merged_HN: Tensor) -> Tensor:
    """Return a part's weight in the merged softmax, [N, H, 1]."""
    return (lse_HN - merged_HN).exp().T[..., None]
