"""Soft Adaptive Policy Optimization (arXiv 2511.20347): the gate and the loss, pure functions.

For a token with ratio r = exp(logp_theta - logp_old) and its response's advantage A:

    f(r) = (4 / tau) * sigmoid(tau * (r - 1)),   tau = tau_pos if A > 0 else tau_neg    (Eq. 5, 6)
    J    = mean over responses of [ mean over its tokens of f(r) * A ],   loss = -J       (Eq. 2)
    dJ/dlogp_theta = w * r * A,   w = sech^2(tau/2 * (r - 1)) = 4 p (1 - p)                (Eq. 8)

w is 1 at r = 1 for any tau and falls smoothly on both sides: a soft trust region instead of a clip.
Worked numbers (tau 1): w(2) = 0.786, w(3) = 0.420, w(5) = 0.071, w(0) = 0.786; w*r peaks at 1.5747
for r = 2.06.

Other gates (gates.py) can take f's place; other objectives are in objectives/.

Legend: T response tokens of a micro-batch, those of all its responses one after the other.
All arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sapo_vl.algorithm.gates import GATES

LOG_RATIO_LIMIT = 20.0
"""|log r| is clamped here: past 88 exp overflows float32 and the backward pass gives NaN; at 20 the
gate's weight is exactly 0 in float32, which is the right limit."""


class Surrogate(NamedTuple):
    """A micro-batch's loss and what telemetry needs of it; all but `loss` are detached."""

    loss: Tensor  # scalar, -sum(weights * f(r) * A), to be minimised
    centred: Tensor  # scalar, the objective with f(r) - f(1) for f(r): 0 on policy
    log_ratio_T: Tensor  # unclamped log r
    gate_weight_T: Tensor  # w; of a clipping objective 1 inside and 0 outside of its bounds
    coefficient_T: Tensor  # what multiplies weight * A * grad log pi; of SAPO w * r
    clamped: Tensor  # scalar count of tokens beyond LOG_RATIO_LIMIT


def joined(parts: Sequence[Surrogate]) -> Surrogate:
    """Return the surrogate of all tokens from those of consecutive chunks."""
    return Surrogate(
        torch.stack([p.loss for p in parts]).sum(),
        torch.stack([p.centred for p in parts]).sum(),
        torch.cat([p.log_ratio_T for p in parts]),
        torch.cat([p.gate_weight_T for p in parts]),
        torch.cat([p.coefficient_T for p in parts]),
        torch.stack([p.clamped for p in parts]).sum(),
    )


class Ratio(NamedTuple):
    """The importance ratio of each token, which every objective starts from."""

    log_T: Tensor  # log r, with gradient
    r_T: Tensor  # exp of the clamped log r, with gradient
    clamped: Tensor  # scalar count of tokens beyond LOG_RATIO_LIMIT


def importance_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor) -> Ratio:
    """Return r = pi_theta / pi_old, with the gradient through `logprobs_T` alone."""
    log_T = logprobs_T.float() - old_logprobs_T.float().detach()
    beyond = (log_T.detach().abs() > LOG_RATIO_LIMIT).sum()
    return Ratio(log_T, log_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp(), beyond)


def gate(ratio: Tensor, tau: Tensor | float) -> Tensor:
    """Return f(r) = 4/tau * sigmoid(tau * (r - 1)), elementwise."""
    return GATES["sigmoid"].value(tau * (ratio - 1.0)) / tau


def gate_weight(ratio: Tensor, tau: Tensor | float) -> Tensor:
    """Return w = f'(r) = sech^2(tau/2 * (r - 1)), in [0, 1], elementwise."""
    return GATES["sigmoid"].weight(tau * (ratio - 1.0))


def sapo_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    weights_T: Tensor,
    *,
    tau_pos: float,
    tau_neg: float,
    gate: str = "sigmoid",
) -> Surrogate:
    """Return -sum_t weights_t * f(r_t) * A_t with the gradient through `logprobs_T` alone.

    `weights_T` carries the aggregation, 1 / (response length * number of responses of the whole
    mini-batch on all ranks), so that sums over micro-batches and ranks give the same loss however
    the responses are spread; and the mismatch weight, where that is on. A token with A = 0 gives no
    gradient. `gate` is a name of GATES.
    """
    value, weight, at_one = GATES[gate]
    ratio = importance_ratio(logprobs_T, old_logprobs_T)
    tau = torch.where(advantages_T > 0, tau_pos, tau_neg).to(ratio.r_T.dtype)
    scale_T = weights_T * advantages_T
    x_T = tau * (ratio.r_T - 1.0)
    soft = value(x_T) / tau
    with torch.no_grad():
        centred = (scale_T * (soft - at_one / tau)).sum()
        w = weight(x_T)
        coefficient = w * ratio.r_T
    return Surrogate(
        -(scale_T * soft).sum(), centred, ratio.log_T.detach(), w, coefficient, ratio.clamped
    )


def mismatch_weight(old_logprobs_T: Tensor, generator_logprobs_T: Tensor, cap: float) -> Tensor:
    """Return min(pi_old / mu, cap), detached: the truncated correction of sampling from mu.

    It stands outside the gate, which acts on staleness (pi_theta / pi_old) alone.
    """
    log_weight = (old_logprobs_T.float() - generator_logprobs_T.float()).detach()
    return log_weight.clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=cap)
