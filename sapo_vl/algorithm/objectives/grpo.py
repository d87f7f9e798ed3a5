"""GRPO (arXiv 2402.03300) as the SAPO paper runs it against: token clip, no KL term.

    J = mean over responses of mean over its tokens of min(r A, clip(r, 1 - low, 1 + high) A)

0.2 and 0.27 are the bounds of the SAPO paper's comparison. DeepSeekMath's own has 0.2 on both sides
and subtracts 0.04 * KL to a reference model; TRL and verl leave that out by default too. TRL's
loss_type "grpo" divides by the response length as here; its default is DAPO's token mean.
"""

from __future__ import annotations

from torch import Tensor

from sapo_vl.algorithm.objectives.clipped import clipped
from sapo_vl.algorithm.sapo import Surrogate, importance_ratio

LOW, HIGH = 0.2, 0.27


def loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    weights_T: Tensor,
    lengths_R: Tensor,
    *,
    low: float = LOW,
    high: float = HIGH,
) -> Surrogate:
    """Return the clipped surrogate of each token; `lengths_R` is not needed."""
    ratio = importance_ratio(logprobs_T, old_logprobs_T)
    return clipped(ratio.r_T, ratio.log_T, ratio.clamped, advantages_T, weights_T, low, high)
