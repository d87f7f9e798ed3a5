"""Gated delta nets on shared-prefix rows: each response starts from the state its prompt left.

A gated delta net (Qwen3.5) carries two things along a sequence: the last inputs of a short causal
convolution, and a recurrent state. Run over a packed row as one sequence, both would flow from one
response into the next. Here the convolution of a response sees the last inputs of its prompt, and
its delta rule starts from the state at its prompt's end; the gradient of all responses flows back
through that state into the prompt. `install` replaces the forward of the layers given to it, so a
model without such layers is untouched. The SharedPrefix arrives as the keyword `layout`; without
one a layer runs as transformers wrote it.

Two forms of the rule:

- batched (CPU, and float32 on any device): transformers' chunked rule in plain PyTorch, on batches
  of segments of like length.
- fla (CUDA, 16 bits): flash-linear-attention's kernels (gated_delta_fla.py).

The convolution is the same in both: the module itself, on a row with each segment's context put
before it. fla has a fused one for bounds and initial states, but it takes the weight as a tensor,
which ZeRO-3 gathers for a call of the module only; and this one is tested where no GPU is.

Legend: T tokens of a row, P prompts, R responses, S segments of a batch, Q their padded length,
C channels of the convolution, H value heads, G key heads, K key width, V value width, D hidden
width.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sapo_vl.errors import SetupError
from sapo_vl.learner.gated_delta_fla import KernelPlan, missing_kernels
from sapo_vl.learner.segments import Segments
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.learner.attention import SharedPrefix

CHUNK = 64
"""Tokens that transformers' delta rule takes as one chunk, and pads a sequence to."""


class DeltaInputs(NamedTuple):
    """The delta rule's inputs for the tokens of a row."""

    query_TGK: Tensor
    key_TGK: Tensor
    value_THV: Tensor
    decay_TH: Tensor  # log of the state's decay, at most 0
    beta_TH: Tensor  # strength of the write, 0 to 1


class Spans(NamedTuple):
    """Where a row's prompts and responses lie, as (start, length) in the row's order."""

    prompts: list[tuple[int, int]]
    responses: list[tuple[int, int]]  # those with tokens in the row
    owners: list[int]  # number of each response's prompt

    @staticmethod
    def of(groups: Sequence[tuple[int, Sequence[int]]]) -> Spans:
        """Return the spans of groups of (prompt length, response lengths)."""
        spans = Spans([], [], [])
        start = 0
        for number, (prompt, lengths) in enumerate(groups):
            spans.prompts.append((start, prompt))
            start += prompt
            for length in lengths:
                if length:
                    spans.responses.append((start, length))
                    spans.owners.append(number)
                start += length
        return spans


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A row's segments in batches of like length."""

    prompts: list[Segments]
    prompt_order_P: Tensor  # the batches' states in the row's order of prompts
    responses: list[tuple[Segments, Tensor]]  # with the number [S] of each response's prompt
    order_T: Tensor  # where each token lies in the outputs of prompts, then responses

    @staticmethod
    def build(spans: Spans, device: torch.device) -> BatchPlan:
        """Plan a row's spans."""
        owner = dict(zip(spans.responses, spans.owners, strict=True))
        prompt_batches, response_batches = _batches(spans.prompts), _batches(spans.responses)
        order = [span for batch in prompt_batches for span in batch]
        prompts = [Segments.of(batch).to(device) for batch in prompt_batches]
        responses = [
            (
                Segments.of(batch).to(device),
                torch.tensor([owner[span] for span in batch], device=device),
            )
            for batch in response_batches
        ]
        parts = [*prompts, *(part for part, _ in responses)]
        return BatchPlan(
            prompts=prompts,
            prompt_order_P=torch.tensor([order.index(s) for s in spans.prompts], device=device),
            responses=responses,
            order_T=torch.argsort(torch.cat([part.tokens_N for part in parts])),
        )

    def run(self, inputs: DeltaInputs) -> Tensor:
        """Return the delta rule's outputs [T, H, V]."""
        return chunked(inputs, self)


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """How a row's segments go through the convolution and the delta rule; once per micro-batch."""

    conv_in: Tensor  # indices into (zeros of the kernel's length - 1, row): contexts and segments
    conv_out_T: Tensor  # where each token of the row lies in conv_in
    rule: BatchPlan | KernelPlan

    @staticmethod
    def build(
        groups: Sequence[tuple[int, Sequence[int]]], kernel: int, device: torch.device, form: str
    ) -> DeltaPlan:
        """Plan groups of (prompt length, response lengths), for a convolution of `kernel` taps.

        `form` is one of FORMS.
        """
        spans = Spans.of(groups)
        conv_in, conv_out_T = _convolution(spans, kernel - 1)
        return DeltaPlan(conv_in.to(device), conv_out_T.to(device), FORMS[form](spans, device))


FORMS: dict[str, Callable[[Spans, torch.device], BatchPlan | KernelPlan]] = {
    "batched": BatchPlan.build,
    "fla": KernelPlan.build,
}
"""Form -> plan of the delta rule, whose `run` computes it."""


def choose_form(device: torch.device, dtype: torch.dtype) -> str:
    """Return the form for a device and the weights' type.

    Raises SetupError where the kernels are needed and not installed.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "batched"
    missing = missing_kernels()
    if missing is not None:
        raise SetupError(missing)
    return "fla"


def install(delta_nets: Sequence[nn.Module]) -> None:
    """Make transformers' gated delta nets take rows with a SharedPrefix as `layout`.

    Raises SetupError for nets that can't run here.
    """
    net: Any
    for net in delta_nets:
        form = choose_form(distributed.device(), net.out_proj.weight.dtype)
        net.forward = partial(run_layer, net, form)


def run_layer(
    net: Any, form: str, hidden_states: Tensor, *, layout: SharedPrefix | None = None, **rest: Any
) -> Tensor:
    """Return the layer's output [1, T, D]; the steps are those of transformers' forward."""
    if layout is None:
        out: Tensor = type(net).forward(net, hidden_states, **rest)
        return out
    x_TD = hidden_states[0]
    if layout.delta_plan is None:
        taps = net.conv_kernel_size
        layout.delta_plan = DeltaPlan.build(layout.groups, taps, x_TD.device, form)
    plan: DeltaPlan = layout.delta_plan
    mixed_TC = convolve(net, net.in_proj_qkv(x_TD), plan)
    query, key, value = mixed_TC.split([net.key_dim, net.key_dim, net.value_dim], dim=-1)
    inputs = DeltaInputs(
        query.unflatten(-1, (-1, net.head_k_dim)),
        key.unflatten(-1, (-1, net.head_k_dim)),
        value.unflatten(-1, (-1, net.head_v_dim)),
        -net.A_log.float().exp()
        * nn.functional.softplus(net.in_proj_a(x_TD).float() + net.dt_bias),
        net.in_proj_b(x_TD).sigmoid(),
    )
    out_THV = plan.rule.run(inputs)
    gate_THV = net.in_proj_z(x_TD).unflatten(-1, (-1, net.head_v_dim))
    normed_THV = net.norm(out_THV.flatten(0, 1), gate_THV.flatten(0, 1)).view_as(out_THV)
    projected: Tensor = net.out_proj(normed_THV.flatten(1))
    return projected[None]


def convolve(net: Any, x_TC: Tensor, plan: DeltaPlan) -> Tensor:
    """Return the activated causal convolution [T, C] of each segment after its context.

    One convolution of the segments with their contexts before them. The module itself is called,
    so that ZeRO-3 gathers its weight.
    """
    padded = nn.functional.pad(x_TC, (0, 0, net.conv_kernel_size - 1, 0))
    long_C = net.conv1d(padded.index_select(0, plan.conv_in).T[None])[0]  # padded on both sides
    out_TC = long_C.T.index_select(0, plan.conv_out_T)
    return nn.functional.silu(out_TC)


def chunked(inputs: DeltaInputs, plan: BatchPlan) -> Tensor:
    """Return the delta rule's outputs [T, H, V] by transformers' chunked rule, in batches."""
    repeats = inputs.value_THV.shape[1] // inputs.key_TGK.shape[1]
    inputs = inputs._replace(
        query_TGK=inputs.query_TGK.repeat_interleave(repeats, dim=1),
        key_TGK=inputs.key_TGK.repeat_interleave(repeats, dim=1),
    )
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
    flat = part.index_SQ.flatten()
    query, key, value, decay, beta = (
        x.index_select(0, flat).unflatten(0, part.index_SQ.shape) for x in inputs
    )
    if part.valid_SQ is not None:  # no decay and no write: padding leaves the state as it is
        decay, beta = (x * part.valid_SQ[..., None] for x in (decay, beta))
    out_SQHV, state_SHKV = _torch_rule()(
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


def _torch_rule() -> Any:
    """Return the rule in PyTorch: where fla is installed, its name in transformers is fla's."""
    from transformers.models.qwen3_5 import modeling_qwen3_5

    return inspect.unwrap(modeling_qwen3_5.torch_chunk_gated_delta_rule)


def _convolution(spans: Spans, context: int) -> tuple[Tensor, Tensor]:
    """Return DeltaPlan's conv_in and conv_out_T.

    In conv_in `context` indices precede each segment: of zeros (0 to context - 1) before a prompt,
    of the prompt's last tokens before a response. A prompt may be shorter than the context; what
    lies before it is zeros then.
    """
    inputs, outputs, length = [], [], 0
    zeros = torch.arange(context)
    owner = dict(zip(spans.responses, spans.owners, strict=True))
    for first, count in sorted([*spans.prompts, *spans.responses]):
        before = zeros
        if (first, count) in owner:
            prompt_first, prompt_count = spans.prompts[owner[first, count]]
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
