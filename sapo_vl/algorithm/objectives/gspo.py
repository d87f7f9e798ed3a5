"""GSPO (arXiv 2507.18071): one ratio per response, the geometric mean of its tokens' ratios.

    s = exp(mean over the response's tokens of log r)                                      (Eq. 7)
    J = mean over responses of min(s A, clip(s, 1 - low, 1 + high) A)                        (Eq. 5)

Every token of a response has the gradient s * A / length while s is not clipped: 3e-4 below and
4e-4 above, the paper's bounds. log s is a mean, so that its noise is that of a token's log ratio
divided by the root of the length: on responses of a dozen tokens these bounds clip far more than on
thousands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapo_vl.algorithm.objectives.clipped import clipped
from sapo_vl.algorithm.sapo import LOG_RATIO_LIMIT, Surrogate, importance_ratio

LOW, HIGH = 3e-4, 4e-4


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
    """Return the clipped surrogate of each response, spread over its tokens' weights.

    `lengths_R` are the tokens of each response; they must be whole responses.
    """
    ratio = importance_ratio(logprobs_T, old_logprobs_T)
    rows_T = torch.repeat_interleave(
        torch.arange(len(lengths_R), device=lengths_R.device), lengths_R
    )
    sums_R = torch.zeros(len(lengths_R), device=rows_T.device).index_add(0, rows_T, ratio.log_T)
    mean_R = (sums_R / lengths_R).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    s_T = mean_R.exp()[rows_T]
    return clipped(s_T, ratio.log_T, ratio.clamped, advantages_T, weights_T, low, high)
