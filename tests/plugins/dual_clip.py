"""Dual-clip PPO (arXiv 1912.09729), an objective of a user's own with an option of its own.

A >= 0: J = mean of means of min(r A, clip(r, 1 - low, 1 + high) A)
A < 0:  J = mean of means of max(min(r A, clip(r, 1 - low, 1 + high) A), delta A)

objective: tests/plugins/dual_clip.py:loss
loss: {delta: 3}
"""

from __future__ import annotations

import torch
from pydantic import Field

from sapo_vl.algorithm.objectives.clipping import ClipOptions, clipped
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate, importance_ratio


class Options(ClipOptions):
    """The section `loss` of a run's config."""

    low: float = ClipOptions.below(0.2)
    high: float = ClipOptions.above(0.2)
    delta: float = Field(3.0, gt=1, description="largest ratio where the advantage is negative")


def loss(inputs: LossInputs, options: Options) -> Surrogate:
    """Return the clipped surrogate; a token with A < 0 and r > delta has no gradient."""
    ratio = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    bounded_T = torch.where(inputs.advantages_T < 0, ratio.r_T.clamp(max=options.delta), ratio.r_T)
    out = clipped(inputs, ratio, bounded_T, options)
    kept_T = (bounded_T == ratio.r_T).to(out.gate_weight_T.dtype)
    return out._replace(
        gate_weight_T=out.gate_weight_T * kept_T,
        grad_coefficient_T=out.grad_coefficient_T * kept_T,
    )
