"""GSPO (arXiv 2507.18071): one ratio per response, the geometric mean of its tokens' ratios.

    s = exp(mean over the response's tokens of log r)                                      (Eq. 7)
    J = mean over responses of min(s A, clip(s, 1 - low, 1 + high) A)                        (Eq. 5)

Every token of a response has the gradient s * A / length while s is not clipped. The paper's bounds
are 3e-4 below and 4e-4 above. log s is a mean, so its noise is that of a token's log ratio divided
by the root of the length: on responses of a dozen tokens these bounds clip far more than on
thousands.
"""

from __future__ import annotations

import torch

from sapo_vl.algorithm.objectives.clipping import ClipOptions, clipped
from sapo_vl.algorithm.surrogate import (
    LOG_RATIO_LIMIT,
    LossInputs,
    Surrogate,
    importance_ratio,
)


class Options(ClipOptions):
    """The section `gspo` of a run's config."""

    low: float = ClipOptions.below(3e-4)
    high: float = ClipOptions.above(4e-4)


def loss(inputs: LossInputs, options: Options) -> Surrogate:
    """Return the clipped surrogate of each response's ratio, spread over its tokens' weights.

    The inputs must be R whole responses.
    """
    ratio = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    lengths_R = inputs.lengths_R
    response_T = torch.repeat_interleave(
        torch.arange(len(lengths_R), device=lengths_R.device), lengths_R
    )
    zeros_R = torch.zeros(len(lengths_R), device=response_T.device)
    log_s_R = zeros_R.index_add(0, response_T, ratio.log_T) / lengths_R
    s_T = log_s_R.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()[response_T]
    return clipped(inputs, ratio, s_T, options)
