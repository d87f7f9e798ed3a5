"""The gated delta rule on CUDA by flash-linear-attention's kernels: no padding, no batches.

Two calls a layer, whatever the number of segments: all prompts, one after the other with their
bounds, which return each prompt's last state; then all responses, which start from those. Weights
of 16 bits only: the kernels' products of float32 are in TF32, so a float32 model takes the batched
form instead (gated_delta.py).

Written against fla-core 0.6.0, fla/ops/gated_delta_rule/chunk.py. It takes fewer key heads than
value heads, returns the gradient of the initial states, and keeps states in float32 as [K, V] per
head. The decay is in float32 here, what else goes in has the weights' type.

Legend: T tokens of a row, N tokens of a call, P prompts, R responses, S sequences of a call, H
value heads, K key width, V value width.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sapo_vl.learner.gated_delta import DeltaInputs, Spans

PACKAGE, OLDEST = "fla-core", (0, 6)
"""The package with the kernels, and the release they were read in: older ones take other arguments,
and ignore a keyword that they don't know."""


WRONG_TRITON = ((3, 4, 0), (3, 7, 1))
"""From the first of these releases of Triton up to the second the backward kernel gives wrong
results on Hopper cards, and fla refuses to run it: fla/ops/common/chunk_o.py, `chunk_bwd_dqkwg`."""

HOPPER = 9
"""Their major compute capability."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences that one call takes one after the other."""

    tokens_N: Tensor  # their tokens' indices in the row
    ends: Tensor  # int64 [S + 1], cumulative lengths from 0
    host_ends: Tensor  # the same in host memory: the kernels' grids need no copy from the device

    @staticmethod
    def of(spans: Sequence[tuple[int, int]], device: torch.device) -> Sequences:
        """Return the sequences of (start, length) spans of a row."""
        lengths = [length for _, length in spans]
        ends = torch.tensor(list(itertools.accumulate(lengths, initial=0)))
        tokens = [torch.arange(start, start + length) for start, length in spans]
        return Sequences(torch.cat(tokens).to(device), ends.to(device), ends)


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """A row's prompts and responses for the two calls; built once per micro-batch."""

    prompts: Sequences
    responses: Sequences | None  # None where no response has tokens in the row
    prompt_R: Tensor  # number of each response's prompt
    order_T: Tensor  # where each token lies in the outputs of prompts, then responses

    @staticmethod
    def build(spans: Spans, device: torch.device) -> KernelPlan:
        """Plan a row's spans."""
        prompts = Sequences.of(spans.prompts, device)
        responses = Sequences.of(spans.responses, device) if spans.responses else None
        parts = [part.tokens_N for part in (prompts, responses) if part is not None]
        return KernelPlan(
            prompts, responses, torch.tensor(spans.owners, device=device, dtype=torch.long),
            torch.argsort(torch.cat(parts)),
        )  # fmt: skip

    def run(self, inputs: DeltaInputs) -> Tensor:
        """Return the delta rule's outputs [T, H, V]."""
        out_NHV, states_PHKV = _call(inputs, self.prompts, None, self.responses is not None)
        if self.responses is not None:
            # By index, not index_select: the backward sums each prompt's states in a fixed order.
            more_NHV, _ = _call(inputs, self.responses, states_PHKV[self.prompt_R], False)
            out_NHV = torch.cat([out_NHV, more_NHV])
        return out_NHV.index_select(0, self.order_T)


def missing_kernels() -> str | None:
    """Return what to install before a GPU can train a gated delta net, None if it is there."""
    try:
        installed = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        found = "is not installed"
    else:
        if tuple(map(int, re.findall(r"\d+", installed)[:2])) >= OLDEST:
            return _wrong_triton()
        found = f"{installed} is too old"
    wanted = f"{PACKAGE}>={'.'.join(map(str, OLDEST))}"
    return (
        f"the model's gated delta nets need flash-linear-attention's kernels on a GPU, and "
        f"{PACKAGE} {found}: pip install '{wanted}', or set model.dtype=float32 for PyTorch's own "
        f"form, which is many times slower"
    )


def _wrong_triton() -> str | None:
    """Return what to install instead of one of WRONG_TRITON's releases on a Hopper card."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != HOPPER:
        return None
    if find_spec("tilelang") is not None:
        return None  # fla has another kernel with it
    installed = metadata.version("triton")
    first, fixed = WRONG_TRITON
    if not first <= tuple(map(int, re.findall(r"\d+", installed)[:3])) < fixed:
        return None
    return (
        f"Triton {installed} computes wrong gradients of gated delta nets on this GPU, a Hopper: "
        f"install Triton {'.'.join(map(str, fixed))} or newer with the torch that pins it, or "
        f"tilelang"
    )


@cache
def delta_kernel() -> Callable[..., tuple[Tensor, Any]]:
    """Return fla's chunk_gated_delta_rule."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    kernel: Callable[..., tuple[Tensor, Any]] = chunk_gated_delta_rule
    return kernel


def _call(
    inputs: DeltaInputs, part: Sequences, start_SHKV: Tensor | None, final_states: bool
) -> tuple[Tensor, Any]:
    """Run the sequences: outputs [N, H, V], and their last states [S, H, K, V] where asked for."""
    query, key, value, decay, beta = (x.index_select(0, part.tokens_N)[None] for x in inputs)
    out, states = delta_kernel()(
        query,
        key,
        value,
        decay,
        beta,
        initial_state=start_SHKV,
        output_final_state=final_states,
        use_qk_l2norm_in_kernel=True,
        cu_seqlens=part.ends,
        cu_seqlens_cpu=part.host_ends,
    )
    return out[0], states
