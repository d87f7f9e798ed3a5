"""CISPO (arXiv 2506.13585, MiniMax-M1): the ratio is clipped as a constant, no token is dropped.

    J = sum over all tokens of stopgrad(clip(r, 1 - low, 1 + high)) * A * log pi / their number

The paper sets no lower bound (low = 1: a ratio is never below 0) and does not publish the upper
one; 4, a ratio of at most 5, is what ScaleRL (arXiv 2510.13786) found to work, and TRL recommends
the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapo_vl.algorithm.sapo import Surrogate, importance_ratio

LOW, HIGH = 1.0, 4.0


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
    """Return -sum weights * clip(r) * A * log r; `lengths_R` is not needed.

    log pi_old is a constant, so log r has the gradient of log pi, and the loss is 0 on policy.
    """
    ratio = importance_ratio(logprobs_T, old_logprobs_T)
    scale_T = weights_T * advantages_T
    bounded = ratio.r_T.detach().clamp(1.0 - low, 1.0 + high)
    total = (scale_T * bounded * ratio.log_T).sum()
    with torch.no_grad():
        inside = (bounded == ratio.r_T).to(bounded.dtype)
    return Surrogate(-total, total.detach(), ratio.log_T.detach(), inside, bounded, ratio.clamped)
