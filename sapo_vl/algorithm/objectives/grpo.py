"""GRPO (arXiv 2402.03300) as the baseline of the SAPO paper: token clip, no KL term.

    J = mean over responses of mean over its tokens of min(r A, clip(r, 1 - low, 1 + high) A)

0.2 and 0.27 are the bounds of the SAPO paper's comparison. DeepSeekMath's original has 0.2 on both
sides and subtracts 0.04 * KL to a reference model; TRL and verl also omit the KL by default. TRL's
loss_type "grpo" divides by the response length as here; its default is DAPO's token mean.
"""

from __future__ import annotations

from sapo_vl.algorithm.objectives.clipping import ClipOptions, clipped
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate, importance_ratio


class Options(ClipOptions):
    """The section `grpo` of a run's config."""

    low: float = ClipOptions.below(0.2)
    high: float = ClipOptions.above(0.27)


def loss(inputs: LossInputs, options: ClipOptions) -> Surrogate:
    """Return the clipped surrogate of each token's ratio."""
    ratio = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    return clipped(inputs, ratio, ratio.r_T, options)
