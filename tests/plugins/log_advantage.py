"""A user's objective with a mistake: log(1 + A), which is not finite from A = -1 down.

objective: tests/plugins/log_advantage.py:loss
"""

from __future__ import annotations

import torch

from sapo_vl.algorithm.objectives.spec import NoOptions
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate, importance_ratio


def loss(inputs: LossInputs, options: NoOptions) -> Surrogate:
    """Return the mean of means of -r log(1 + A)."""
    ratio = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    damped_T = torch.log1p(inputs.advantages_T)
    total = -(inputs.weights_T * ratio.r_T * damped_T).sum()
    ones_T = torch.ones_like(damped_T)
    return Surrogate(total, total.detach(), ratio.log_T.detach(), ones_T, ones_T, ratio.clamped)
