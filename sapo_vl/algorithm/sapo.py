"""Soft Adaptive Policy Optimization (arXiv 2511.20347): the gate and the loss, pure functions.

For a token with ratio r = exp(logp_theta - logp_old) and its response's advantage A:

    f(r) = (4 / tau) * sigmoid(tau * (r - 1)),   tau = tau_pos if A > 0 else tau_neg    (Eq. 5, 6)
    J    = mean over responses of [ mean over its tokens of f(r) * A ],   loss = -J       (Eq. 2)
    dJ/dlogp_theta = w * r * A,   w = sech^2(tau/2 * (r - 1)) = 4 p (1 - p)                (Eq. 8)

w is 1 at r = 1 for any tau and falls smoothly on both sides: a soft trust region instead of a clip.
Worked numbers (tau 1): w(2) = 0.786, w(3) = 0.420, w(5) = 0.071, w(0) = 0.786; w*r peaks at 1.5747,
at r = 2.06.

Other gates (gates.py) can take f's place; other objectives are in objectives/.
Legend: T response tokens of a micro-batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sapo_vl.algorithm.gates import GATES
from sapo_vl.algorithm.surrogate import LossInputs, Surrogate, importance_ratio


class Options(BaseModel):
    """The section `sapo` of a run's config."""

    model_config = ConfigDict(extra="forbid")

    tau_pos: float = Field(
        1.0, gt=0, description="gate temperature where the advantage is positive"
    )
    tau_neg: float = Field(1.05, gt=0, description="gate temperature where it is negative")
    gate: Literal["sigmoid", "hard", "none"] = Field(
        "sigmoid", description="shape of the gate, see `sapo-vl gate`; sigmoid is the paper's"
    )


def gate(ratio: Tensor, tau: Tensor | float) -> Tensor:
    """Return f(r) = 4/tau * sigmoid(tau * (r - 1)), elementwise."""
    return GATES["sigmoid"].value(tau * (ratio - 1.0)) / tau


def gate_weight(ratio: Tensor, tau: Tensor | float) -> Tensor:
    """Return w = f'(r) = sech^2(tau/2 * (r - 1)), in [0, 1], elementwise."""
    return GATES["sigmoid"].weight(tau * (ratio - 1.0))


def loss(inputs: LossInputs, options: Options) -> Surrogate:
    """Return -sum_t weights_t * f(r_t) * A_t with the gradient through `logprobs_T` alone.

    `weights_T` carries the aggregation, 1 / (response length * number of responses of the whole
    mini-batch on all ranks): summed over micro-batches and ranks, the loss is the same however the
    responses are distributed. It also carries the mismatch weight, if that is on. A token with
    A = 0 gives no gradient.
    """
    value, weight, at_one = GATES[options.gate]
    ratio = importance_ratio(inputs.logprobs_T, inputs.old_logprobs_T)
    tau = torch.where(inputs.advantages_T > 0, options.tau_pos, options.tau_neg).to(ratio.r_T.dtype)
    scale_T = inputs.weights_T * inputs.advantages_T
    x_T = tau * (ratio.r_T - 1.0)
    soft = value(x_T) / tau
    with torch.no_grad():
        centered = (scale_T * (soft - at_one / tau)).sum()
        w = weight(x_T)
        coefficient = w * ratio.r_T
    return Surrogate(
        -(scale_T * soft).sum(), centered, ratio.log_T.detach(), w, coefficient, ratio.clamped
    )
