"""Gated delta nets on shared-prefix rows: each response starts from the state its prompt left.

A gated delta net (Qwen3.5) carries two things along a sequence: the last inputs of a short causal
convolution, and a recurrent state. Run over a packed row as one sequence, both would flow from one
response into the next. Here the convolution of a response sees the last inputs of its prompt, and
its delta rule starts from the state at its prompt's end; the gradient of all responses flows back
through that state into the prompt. `install` replaces the forward of the layers given to it, so a
model without such layers is untouched. The SharedPrefix arrives as the keyword `layout`; without
one a layer runs as transformers wrote it.

On a CPU the rule is transformers' chunked one, on batches of segments of like length.

Legend: T tokens of a row, P prompts, R responses, S segments of a batch, Q their padded length,
C channels of the convolution, H heads, K key width, V value width, D hidden width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sapo_vl.learner.segments import Segments

if TYPE_CHECKING:
    from sapo_vl.learner.attention import SharedPrefix

CHUNK = 64
"""Tokens that transformers' delta rule takes as one chunk, and pads a sequence to."""


class DeltaInputs(NamedTuple):
    """The delta rule's inputs for the tokens of a row."""

    query_THK: Tensor
    key_THK: Tensor
    value_THV: Tensor
    decay_TH: Tensor  # log of the state's decay, at most 0
    beta_TH: Tensor  # strength of the write, 0 to 1


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """How a row's segments go through the convolution and the delta rule."""

    conv_in: Tensor  # indices into (zeros of the kernel's length - 1, row): contexts and segments
    conv_out_T: Tensor  # where each token of the row lies in conv_in
    prompts: list[Segments]  # in batches of like length
    prompt_order_P: Tensor  # the batches' states in the row's order of prompts
    responses: list[tuple[Segments, Tensor]]  # with the number [S] of each response's prompt
    order_T: Tensor  # where each token lies in the outputs of prompts, then responses

    @staticmethod
    def build(
        groups: Sequence[tuple[int, Sequence[int]]], kernel: int, device: torch.device
    ) -> DeltaPlan:
        """Plan groups of (prompt length, response lengths), for a convolution of `kernel` taps."""
        prompts: list[tuple[int, int]] = []
        responses: list[tuple[int, int]] = []
        owner: dict[int, int] = {}  # a response's start -> its prompt's number
        start = 0
        for number, (prompt, lengths) in enumerate(groups):
            prompts.append((start, prompt))
            start += prompt
            for length in lengths:
                if length:
                    responses.append((start, length))
                    owner[start] = number
                start += length
        conv_in, conv_out_T = _convolution(prompts, responses, owner, kernel - 1)
        prompt_batches = _batches(prompts)
        response_batches = _batches(responses)
        starts = [span for batch in prompt_batches for span in batch]
        parts = [Segments.of(batch) for batch in (*prompt_batches, *response_batches)]
        return DeltaPlan(
            conv_in=conv_in.to(device),
            conv_out_T=conv_out_T.to(device),
            prompts=parts[: len(prompt_batches)],
            prompt_order_P=torch.tensor([starts.index(span) for span in prompts]),
            responses=[
                (part, torch.tensor([owner[first] for first, _ in batch]))
                for part, batch in zip(parts[len(prompt_batches) :], response_batches, strict=True)
            ],
            order_T=torch.argsort(torch.cat([part.tokens_N for part in parts])),
        )


def install(delta_nets: Sequence[nn.Module]) -> None:
    """Make transformers' gated delta nets take rows with a SharedPrefix as `layout`."""
    for net in delta_nets:
        net.forward = partial(_forward, net)  # type: ignore[method-assign]


def _forward(
    net: Any, hidden_states: Tensor, *, layout: SharedPrefix | None = None, **rest: Any
) -> Tensor:
    """Return the layer's output [1, T, D]; the steps are those of transformers' forward."""
    if layout is None:
        out: Tensor = type(net).forward(net, hidden_states, **rest)
        return out
    x_TD = hidden_states[0]
    if layout.delta_plan is None:
        layout.delta_plan = DeltaPlan.build(layout.groups, net.conv_kernel_size, x_TD.device)
    plan: DeltaPlan = layout.delta_plan
    mixed_TC = _convolve(net, net.in_proj_qkv(x_TD), plan)
    query, key, value = mixed_TC.split([net.key_dim, net.key_dim, net.value_dim], dim=-1)
    repeats = net.num_v_heads // net.num_k_heads
    inputs = DeltaInputs(
        query.unflatten(-1, (-1, net.head_k_dim)).repeat_interleave(repeats, dim=1),
        key.unflatten(-1, (-1, net.head_k_dim)).repeat_interleave(repeats, dim=1),
        value.unflatten(-1, (-1, net.head_v_dim)),
        -net.A_log.float().exp()
        * nn.functional.softplus(net.in_proj_a(x_TD).float() + net.dt_bias),
        net.in_proj_b(x_TD).sigmoid(),
    )
    out_THV = chunked(inputs, plan)
    gate_THV = net.in_proj_z(x_TD).unflatten(-1, (-1, net.head_v_dim))
    normed_THV = net.norm(out_THV.flatten(0, 1), gate_THV.flatten(0, 1)).view_as(out_THV)
    projected: Tensor = net.out_proj(normed_THV.flatten(1))
    return projected[None]


def _convolve(net: Any, x_TC: Tensor, plan: DeltaPlan) -> Tensor:
    """Return the activated causal convolution [T, C] of each segment after its context.

    One convolution of the segments with their contexts before them. The module itself is called,
    so that ZeRO-3 gathers its weight.
    """
    padded = nn.functional.pad(x_TC, (0, 0, net.conv_kernel_size - 1, 0))
    long_C = net.conv1d(padded.index_select(0, plan.conv_in).T[None])[0]  # padded on both sides
    out_TC = long_C.T.index_select(0, plan.conv_out_T)
    return nn.functional.silu(out_TC)


def chunked(inputs: DeltaInputs, plan: DeltaPlan) -> Tensor:
    """Return the delta rule's outputs [T, H, V] by transformers' chunked rule, in batches."""
    outputs, states = [], []
    for part in plan.prompts:
        out, state = _rule(inputs, part, None, final_state=True)
        outputs.append(out)
        states.append(state)
    states_PHKV = torch.cat(states).index_select(0, plan.prompt_order_P)
    for part, prompt_S in plan.responses:
        start_SHKV = states_PHKV.index_select(0, prompt_S)
        outputs.append(_rule(inputs, part, start_SHKV, final_state=False)[0])
    return torch.cat(outputs).index_select(0, plan.order_T)


def _rule(
    inputs: DeltaInputs, part: Segments, start_SHKV: Tensor | None, *, final_state: bool
) -> tuple[Tensor, Tensor]:
    """Run the rule on a batch: outputs [N, H, V] of its tokens, and states [S, H, K, V]."""
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    flat = part.index_SQ.flatten()
    query, key, value, decay, beta = (
        x.index_select(0, flat).unflatten(0, part.index_SQ.shape) for x in inputs
    )
    if part.valid_SQ is not None:  # no decay and no write: padding leaves the state as it is
        decay, beta = (x * part.valid_SQ[..., None] for x in (decay, beta))
    out_SQHV, state_SHKV = torch_chunk_gated_delta_rule(
        query,
        key,
        value,
        g=decay,
        beta=beta,
        chunk_size=min(_padded(part.index_SQ.shape[1]), CHUNK),
        initial_state=start_SHKV,
        output_final_state=final_state,
        use_qk_l2norm_in_kernel=True,
    )
    out = out_SQHV.flatten(0, 1) if part.valid_SQ is None else out_SQHV[part.valid_SQ]
    return out, state_SHKV


def _convolution(
    prompts: Sequence[tuple[int, int]],
    responses: Sequence[tuple[int, int]],
    owner: dict[int, int],
    context: int,
) -> tuple[Tensor, Tensor]:
    """Return DeltaPlan's conv_in and conv_out_T.

    In conv_in `context` indices precede each segment: of zeros (0 to context - 1) before a prompt,
    of the prompt's last tokens before a response. A prompt may be shorter than the context; what
    lies before it is zeros then.
    """
    inputs, outputs, length = [], [], 0
    zeros = torch.arange(context)
    for first, count in sorted([*prompts, *responses]):
        before = zeros
        if first in owner:
            prompt_first, prompt_count = prompts[owner[first]]
            known = min(context, prompt_count)
            end = prompt_first + prompt_count + context
            before = torch.cat([zeros[: context - known], torch.arange(end - known, end)])
        inputs += [before, torch.arange(first, first + count) + context]
        outputs.append(torch.arange(count) + length + context)
        length += context + count
    return torch.cat(inputs), torch.cat(outputs)


def _batches(spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group (start, length) spans that the rule pads to the same length, longest first."""
    batches: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for span in spans:
        batches[_padded(span[1])].append(span)
    return [batches[length] for length in sorted(batches, reverse=True)]


def _padded(length: int) -> int:
    """Return the length the rule computes with: a power of two up to CHUNK, then whole chunks."""
    if length <= CHUNK:
        return int(2 ** (length - 1).bit_length())
    return -(-length // CHUNK) * CHUNK
