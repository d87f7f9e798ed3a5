"""Attention over shared-prefix rows: each response sees its prompt and itself, nothing else.

A packed row [1, T] holds prompt, y1 .. yG, next prompt, ... with no padding. `SharedPrefix` maps
tokens to segments; `install` registers one of the functions below with transformers'
AttentionInterface for a model's text layers, so no model code is patched. The SharedPrefix travels
as the keyword argument `layout` of the model's forward.

Four implementations of the same attention:

- cascade (CPU): causal self-attention within every segment, then the responses' queries on their
  prompt's keys, merged by log-sum-exp. Exact: aten's flash kernel returns the log-sum-exp, and its
  backward, given the merged output and log-sum-exp, yields each part's share of the gradient.
  Segments of similar length share a call. The idea is that of cascade inference (FlashInfer,
  vLLM): prefix and suffix apart, then merged.
- flex (CUDA): FlexAttention, with one block mask per batch that skips fully masked blocks.
- varlen (CUDA, 16 bits): the cascade by aten's flash kernels (varlen.py), without a compiler.
- dense: SDPA with an explicit T x T mask. The reference, and the fallback on any device.

Legend: T tokens of a row, H query heads, K key-value heads, D head width, S segments of a batch,
Q and P their padded lengths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sapo_vl.errors import ConfigError
from sapo_vl.learner.segments import Segments, group_by_length
from sapo_vl.learner.varlen import VarlenPlan, attend

NAME = "sapo_shared_prefix"
"""The text model's `attn_implementation`."""

FLASH_WIDTH = 256
"""Widest head of the flash kernels."""

FLEX_KERNEL = {"BACKEND": "TRITON"}
"""One kernel for rows of any length. Left to itself FlexAttention takes its decoding kernel for
rows under 128 tokens without a gradient, which has no form for float32 heads of width 128 (torch
2.11).
"""


@dataclass(slots=True)
class SharedPrefix:
    """The prompt and response that each token of a packed row belongs to.

    Example, one prompt of 3 tokens with responses of 2 and 1:
        group_T    = 0 0 0  0 0  0
        response_T = 0 0 0  1 1  2      (0: prompt; responses are numbered through the whole row)
    """

    group_T: Tensor  # prompt that a token belongs to
    response_T: Tensor  # response that a token belongs to, 0 for the prompt's own
    groups: Sequence[tuple[int, Sequence[int]]]  # (prompt length, response lengths), in order
    causal: list[Segments] = field(default_factory=list)  # all segments: self-attention
    cross: list[tuple[Segments, Tensor]] = field(default_factory=list)  # responses; keys [S, P]
    block_mask: Any = None  # FlexAttention's, built once per batch
    plan: VarlenPlan | None = None  # of the varlen form
    delta_plan: Any = None  # gated_delta's, built by the first such layer

    @staticmethod
    def build(groups: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> SharedPrefix:
        """Lay out groups of (prompt length, response lengths) one after the other."""
        group, response, spans, queries = [], [], [], defaultdict(list)
        start, number = 0, 0
        for g, (prompt, lengths) in enumerate(groups):
            spans.append((start, prompt))
            group.append(torch.full((prompt + sum(lengths),), g))
            response.append(torch.zeros(prompt, dtype=torch.long))
            if sum(lengths):
                queries[prompt].append((start, start + prompt, sum(lengths)))
            start += prompt
            for length in lengths:
                number += 1
                response.append(torch.full((length,), number))
                if length:
                    spans.append((start, length))
                start += length
        layout = SharedPrefix(torch.cat(group).to(device), torch.cat(response).to(device), groups)
        if device.type == "cpu":
            layout.causal = [Segments.of(part) for part in group_by_length(spans)]
            for prompt, members in queries.items():  # prompts of one length: no key is padded
                responses = Segments.of([(first, count) for _, first, count in members])
                keys = torch.tensor([[s] for s, _, _ in members]) + torch.arange(prompt)
                layout.cross.append((responses, keys))
        else:
            layout.plan = VarlenPlan.build(groups, device)
        return layout


def install(model: nn.Module, form: str) -> None:
    """Make the text layers of `model` use one of FORMS."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, FORMS[form])
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    model.set_attn_implementation({"text_config": NAME, "vision_config": "sdpa"})  # type: ignore[operator]


def choose_form(choice: str, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Return the form for a device and a model, given learner.attention.

    `width` is that of a head, D. On CUDA `auto` takes varlen where its kernels can run and flex
    elsewhere. On an H100 flex's forward is faster, its backward slower: both together take 1.3 to
    1.5 times varlen's time (docs/gpu.md), and flex compiles first. Raises ConfigError for a choice
    that can't run.
    """
    if device.type != "cuda":
        if choice != "auto":
            raise ConfigError(f"learner.attention={choice} needs a GPU: leave it out on a CPU")
        return "cascade" if device.type == "cpu" else "dense"
    obstacle = ""
    if dtype not in (torch.bfloat16, torch.float16):
        obstacle = f"model.dtype=bfloat16, not {str(dtype).removeprefix('torch.')}"
    elif width % 8 or width > FLASH_WIDTH:
        obstacle = f"heads of a width that is a multiple of 8 up to {FLASH_WIDTH}, not {width}"
    if choice == "varlen" and obstacle:
        raise ConfigError(f"learner.attention=varlen needs {obstacle}: set flex or auto")
    if choice == "flex" or obstacle:
        return "flex"
    return "varlen"


def cascade(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: SharedPrefix,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return [1, T, H, D] of queries [1, H, T, D] on keys and values [1, K, T, D]."""
    out = _Cascade.apply(
        query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), layout, scaling
    )
    return out[None], None


def dense(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: SharedPrefix,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same as `cascade`, with SDPA and an explicit mask [T, T]."""
    positions = torch.arange(len(layout.group_T), device=query.device)
    mask = _visible(layout, positions[:, None], positions[None, :])
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2), None


def flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: SharedPrefix,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same as `cascade`, with FlexAttention; the first layer builds the block mask."""
    compiled = _on_gpu(query)  # elsewhere only the uncompiled reference exists
    attend, create = _flex_functions(compiled)
    if layout.block_mask is None:
        length = query.shape[2]
        layout.block_mask = create(
            lambda b, h, q, k: _visible(layout, q, k), None, None, length, length, query.device
        )
    out = attend(
        query, key, value, block_mask=layout.block_mask, scale=scaling, enable_gqa=True,
        kernel_options=FLEX_KERNEL if compiled else None,
    )  # fmt: skip
    return out.transpose(1, 2), None


def varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: SharedPrefix,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same as `cascade`, with flash kernels on CUDA."""
    assert layout.plan is not None, "a layout for the CPU"
    q_THD, k_TKD, v_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q_THD, k_TKD, v_TKD, layout.plan, scaling)[None], None


FORMS = {"cascade": cascade, "flex": flex, "varlen": varlen, "dense": dense}
"""Name -> attention function with transformers' signature."""


def _visible(layout: SharedPrefix, query: Tensor, key: Tensor) -> Tensor:
    """The mask: same group, not in the future, and a key of the prompt or of the same response."""
    response = layout.response_T[key]
    return (
        (layout.group_T[query] == layout.group_T[key])
        & (key <= query)
        & ((response == 0) | (response == layout.response_T[query]))
    )


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


@cache
def _flex_functions(compiled: bool) -> tuple[Any, Any]:
    from torch.nn.attention import flex_attention as module

    if not compiled:
        return module.flex_attention, module.create_block_mask
    # Uncompiled, the T x T scores would be materialised: 34 GB for 16,384 tokens and 32 heads. Past
    # its limit of recompilations dynamo would do that without a word.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # Lengths change from batch to batch.
    return (
        torch.compile(module.flex_attention, dynamic=True),
        torch.compile(module.create_block_mask, dynamic=True),
    )


def _gather(x_THD: Tensor, index_SQ: Tensor) -> Tensor:
    """Gather [S, H, Q, D] from a row's tensor [T, H, D]."""
    return x_THD[index_SQ].transpose(1, 2)


def _tokens(x_SHQD: Tensor, part: Segments) -> Tensor:
    """Invert `_gather`, dropping padding: [N, H, D]."""
    x_SQHD = x_SHQD.transpose(1, 2)
    return x_SQHD.flatten(0, 1) if part.valid_SQ is None else x_SQHD[part.valid_SQ]


class _Cascade(torch.autograd.Function):
    """Shared-prefix attention on the CPU, see the module's docstring. Heads may be grouped."""

    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: SharedPrefix, scale: float
    ) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
        lse_TH = torch.empty(q_THD.shape[:2], dtype=torch.float32)
        for part in layout.causal:
            q, k, v = (_gather(x, part.index_SQ) for x in (q_THD, k_TKD, v_TKD))
            out, lse = attend(q, k, v, 0.0, True, scale=scale)
            out_THD[part.tokens_N] = _tokens(out, part)
            lse_TH[part.tokens_N] = _tokens(lse[..., None], part)[..., 0]
        for part, keys_SP in layout.cross:
            q, k, v = (
                _gather(q_THD, part.index_SQ),
                _gather(k_TKD, keys_SP),
                _gather(v_TKD, keys_SP),
            )
            out, lse = attend(q, k, v, 0.0, False, scale=scale)
            cross_NHD, cross_NH = _tokens(out, part), _tokens(lse[..., None], part)[..., 0]
            self_NH = lse_TH[part.tokens_N]
            merged_NH = torch.logaddexp(self_NH, cross_NH)
            self_NHD = out_THD[part.tokens_N]
            self_NHD *= (self_NH - merged_NH).exp()[..., None]
            self_NHD += cross_NHD * (cross_NH - merged_NH).exp()[..., None]
            out_THD[part.tokens_N] = self_NHD
            lse_TH[part.tokens_N] = merged_NH
        ctx.save_for_backward(q_THD, k_TKD, v_TKD, out_THD, lse_TH)
        ctx.layout, ctx.scale = layout, scale
        return out_THD

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        q_THD, k_TKD, v_TKD, out_THD, lse_TH = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q_THD), torch.zeros_like(k_TKD), torch.zeros_like(v_TKD)
        parts = [(p, p.index_SQ, True) for p in ctx.layout.causal]
        parts += [(p, keys, False) for p, keys in ctx.layout.cross]
        for part, keys_SP, causal in parts:
            q, k, v = (
                _gather(q_THD, part.index_SQ),
                _gather(k_TKD, keys_SP),
                _gather(v_TKD, keys_SP),
            )
            out, grad = _gather(out_THD, part.index_SQ), _gather(grad_THD, part.index_SQ)
            lse = lse_TH[part.index_SQ].transpose(1, 2).contiguous()
            if part.valid_SQ is not None:  # a padded query with no gradient adds none to the keys
                grad = grad * part.valid_SQ[:, None, :, None]
            gq, gk, gv = attend(grad, q, k, v, out, lse, 0.0, causal, scale=ctx.scale)
            dq.index_add_(0, part.tokens_N, _tokens(gq, part))
            dk.index_add_(0, keys_SP.flatten(), gk.transpose(1, 2).flatten(0, 1))
            dv.index_add_(0, keys_SP.flatten(), gv.transpose(1, 2).flatten(0, 1))
        return dq, dk, dv, None, None
