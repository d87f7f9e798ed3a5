"""The parts common to all objectives: their inputs, the importance ratio, their result. Pure.

    loss(inputs: LossInputs, options) -> Surrogate

Three policies take part, each with its own log-probs: mu sampled the tokens
(`generator_logprobs`), pi_old is the learner's policy at rollout time (`old_logprobs`), pi_theta is
being trained (`logprobs`). The objective acts on r = pi_theta / pi_old; a detached weight outside
the objective corrects for the distance of pi_old from mu.

Legend: T response tokens of a micro-batch, its R responses concatenated.
All arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""|log r| is clamped here: past 88 exp overflows float32 and the backward pass gives NaN; at 20 the
gate's weight is exactly 0 in float32, which is the right limit."""


class LossInputs(NamedTuple):
    """The tokens an objective is computed on; only `logprobs_T` carries a gradient."""

    logprobs_T: Tensor  # log pi_theta
    old_logprobs_T: Tensor  # log pi_old, detached
    advantages_T: Tensor  # A of the token's response
    weights_T: Tensor  # aggregation weight with one global denominator, times the mismatch weight
    lengths_R: Tensor  # tokens of each whole response, even if the T are only a chunk
    reference_logprobs_T: Tensor | None = None  # log pi_ref, detached, for the KL penalty (kl.py)


class Surrogate(NamedTuple):
    """A micro-batch's loss and its values for telemetry; all but `loss` are detached."""

    loss: Tensor  # scalar, -sum(weights * f(r) * A), to be minimised
    loss_centered: Tensor  # scalar, the objective with f(r) - f(1) for f(r): 0 on policy
    log_ratio_T: Tensor  # unclamped log r
    gate_weight_T: Tensor  # w; for a clipping objective 1 inside its bounds, 0 outside
    grad_coefficient_T: Tensor  # the factor of weight * A * grad log pi; w * r for SAPO
    clamped: Tensor  # scalar count of tokens beyond LOG_RATIO_LIMIT
    penalty: Tensor | None = None  # scalar, the KL penalty's part of `loss`; None: there is none
    reference_kl_T: Tensor | None = None  # the penalty's estimate of the KL to the reference


class Ratio(NamedTuple):
    """The importance ratio of each token, which every objective starts from."""

    log_T: Tensor  # log r, with gradient
    r_T: Tensor  # exp of the clamped log r, with gradient
    clamped: Tensor  # scalar count of tokens beyond LOG_RATIO_LIMIT


def importance_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor) -> Ratio:
    """Return r = pi_theta / pi_old, with the gradient through `logprobs_T` alone."""
    log_T = logprobs_T.float() - old_logprobs_T.float().detach()
    clamped = (log_T.detach().abs() > LOG_RATIO_LIMIT).sum()
    return Ratio(log_T, log_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp(), clamped)


def mismatch_weight(old_logprobs_T: Tensor, generator_logprobs_T: Tensor, cap: float) -> Tensor:
    """Return min(pi_old / mu, cap), detached: the truncated correction for sampling from mu.

    The weight is applied outside the gate, which acts on staleness (pi_theta / pi_old) alone.
    """
    log_weight = (old_logprobs_T.float() - generator_logprobs_T.float()).detach()
    return log_weight.clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=cap)


def concatenate(chunks: Sequence[Surrogate]) -> Surrogate:
    """Join the surrogates of consecutive chunks of tokens into that of all of them."""
    penalties = _present(c.penalty for c in chunks)
    kl = _present(c.reference_kl_T for c in chunks)
    return Surrogate(
        torch.stack([c.loss for c in chunks]).sum(),
        torch.stack([c.loss_centered for c in chunks]).sum(),
        torch.cat([c.log_ratio_T for c in chunks]),
        torch.cat([c.gate_weight_T for c in chunks]),
        torch.cat([c.grad_coefficient_T for c in chunks]),
        torch.stack([c.clamped for c in chunks]).sum(),
        torch.stack(penalties).sum() if penalties else None,
        torch.cat(kl) if kl else None,
    )


def _present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]
