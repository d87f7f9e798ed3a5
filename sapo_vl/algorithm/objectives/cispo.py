"""CISPO (arXiv 2506.13585, MiniMax-M1): the clipped ratio is a constant factor; no token drops out.

    J = sum over all tokens of stopgrad(clip(r, 1 - low, 1 + high)) * A * log pi / their number

The paper sets no lower bound (low = 1: a ratio is never below 0) and does not publish the upper
one; 4, a ratio of at most 5, is what ScaleRL (arXiv 2510.13786) found to work, and TRL recommends
the same.
"""

from __future__ import annotations

import torch

from sapo_vl.algorithm.objectives.clipping import ClipOptions
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate, importance_ratio


class Options(ClipOptions):
    """The section `cispo` of a run's config."""

    low: float = ClipOptions.below(1.0)
    high: float = ClipOptions.above(4.0)


def loss(inputs: LossInputs, options: Options) -> Surrogate:
    """Return -sum weights * clip(r) * A * log r.

    log pi_old is a constant, so log r has the gradient of log pi, and the loss is 0 on policy.
    """
    ratio = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    scale_T = inputs.weights_T * inputs.advantages_T
    bounded_T = ratio.r_T.detach().clamp(1.0 - options.low, 1.0 + options.high)
    objective = (scale_T * bounded_T * ratio.log_T).sum()
    with torch.no_grad():
        inside_T = (bounded_T == ratio.r_T).to(bounded_T.dtype)
    return Surrogate(
        -objective, objective.detach(), ratio.log_T.detach(), inside_T, bounded_T, ratio.clamped
    )
