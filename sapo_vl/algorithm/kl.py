"""The KL penalty that keeps the policy near a reference policy. Pure functions of tensors.

With d = log pi_ref - log pi_theta of a sampled token and r = pi_theta / pi_old:

    k3      = exp(d) - d - 1                                       (Schulman's estimator, >= 0)
    penalty = kl_coef * sum over tokens of weight * r * k3,        added to the objective's loss

The weights are the objective's own, with its denominator and, where that is on, the mismatch
weight. r makes the samples of pi_old stand for samples of pi_theta, so that the mean of r k3 is an
unbiased estimate of KL(pi_theta || pi_ref), and its gradient is that of the same KL:

    d(r k3) / dlog pi_theta = r (k3 + 1 - exp(d)) = r (log pi_theta - log pi_ref)

Without r, as in GRPO's paper (arXiv 2402.03300, Eq. 4), the gradient is 1 - exp(d): in expectation
over pi_theta that of the other direction, KL(pi_ref || pi_theta), which hardly acts where the
policy has become too sure and explodes where it has left tokens of the reference. Near the
reference both are -d, so that usual values of kl_coef keep their meaning. DeepSeek-V3.2
(arXiv 2512.02556) corrects k3 in the same way.

Legend: T response tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sapo_vl.algorithm.surrogate import LOG_RATIO_LIMIT, LossInputs, Surrogate, importance_ratio

RATIO_LIMIT = 10.0
"""Largest r in the penalty. A gate or clip bounds r in the objective; here one token of a stale
batch could otherwise outweigh all others."""


class Penalty(NamedTuple):
    """The penalty of some tokens, before weights and coefficient."""

    kl_T: Tensor  # r * k3, detached
    slope_T: Tensor  # its derivative by log pi_theta, detached


def k3(logprobs_T: Tensor, reference_T: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = reference - logprobs, clamped to +-LOG_RATIO_LIMIT."""
    d_T = (reference_T.float() - logprobs_T.float()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(d_T) - d_T


@torch.no_grad()
def token_penalty(inputs: LossInputs, reference_T: Tensor) -> Penalty:
    """Return r * k3 and r * (log pi_theta - log pi_ref) of each token.

    The derivative is written out: autograd's would be a difference of two terms of size exp(d).
    """
    r_T = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T).r_T.clamp(max=RATIO_LIMIT)
    log_T = inputs.logprobs_T.float() - reference_T.float()
    log_T = log_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return Penalty(r_T * k3(inputs.logprobs_T, reference_T), r_T * log_T)


def penalized(
    loss: Callable[[LossInputs], Surrogate], kl_coef: float
) -> Callable[[LossInputs], Surrogate]:
    """Return the loss plus kl_coef * sum of weight * r * k3; with kl_coef 0 the loss itself."""
    if kl_coef == 0:
        return loss

    def total(inputs: LossInputs) -> Surrogate:
        surrogate = loss(inputs)
        if inputs.reference_logprobs_T is None:
            assert not inputs.weights_T.any(), "rollouts without the reference's log-probs"
            return surrogate
        kl_T, slope_T = token_penalty(inputs, inputs.reference_logprobs_T)
        scale_T = kl_coef * inputs.weights_T
        value = (scale_T * kl_T).sum()
        moved_T = inputs.logprobs_T - inputs.logprobs_T.detach()  # 0, with the gradient of log pi
        return surrogate._replace(
            loss=surrogate.loss + value + (scale_T * slope_T * moved_T).sum(),
            penalty=value,
            reference_kl_T=kl_T,
        )

    return total
