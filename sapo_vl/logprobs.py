"""Log-probs and entropy of response tokens from hidden states, in chunks: pure.

Logits of a whole micro-batch never exist: each chunk's are made and dropped, and made again in the
backward pass, so that memory grows with neither vocabulary x tokens nor the number of chunks.

Legend: N response tokens, C of a chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BAN_BIAS = -100.0
"""Added to the logit of a banned id, by sampler and learner alike: exp(-100) is 0 in practice."""

CHUNK_LOGITS = 2**25
"""Logits held at once (128 MiB in float32)."""


class ResponseLogprobs(NamedTuple):
    """What the policy says of the response tokens of a micro-batch, one after the other."""

    logprobs_N: Tensor  # float32, natural log, at the sampling temperature, with gradient
    entropy_N: Tensor  # float32, nats, detached


def response_logprobs(
    head: nn.Module, hidden_ND: Tensor, targets_N: Tensor, bias_V: Tensor, temperature: float
) -> ResponseLogprobs:
    """Return log-softmax((head(hidden) + bias) / temperature) at the targets, and its entropy.

    `hidden_ND` are the states that predict the targets; `bias_V` is BAN_BIAS at banned ids and 0
    elsewhere, the same that the sampler adds. The softmax is float32 whatever the head's type.
    A head whose weight is sharded (ZeRO-3) goes through its own forward, whose hooks gather it.
    """
    weight = getattr(head, "weight", None)
    plain = isinstance(weight, Tensor) and getattr(head, "bias", None) is None
    if plain and not hasattr(weight, "ds_id"):
        return ResponseLogprobs(*_Head.apply(hidden_ND, weight, targets_N, bias_V, temperature))
    parts = [
        checkpoint(_by_module, head, h, t, bias_V, temperature, use_reentrant=False)
        for h, t in _chunks(hidden_ND, targets_N, len(bias_V))
    ]
    return ResponseLogprobs(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def _chunks(hidden_ND: Tensor, targets_N: Tensor, vocabulary: int) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK_LOGITS // vocabulary)
    return list(zip(hidden_ND.split(rows), targets_N.split(rows), strict=True))


def _by_module(
    head: nn.Module, hidden_CD: Tensor, targets_C: Tensor, bias_V: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logprobs_CV = ((head(hidden_CD).float() + bias_V) / temperature).log_softmax(-1)
    chosen_C = logprobs_CV.gather(-1, targets_C[:, None])[:, 0]
    with torch.no_grad():
        entropy_C = -(logprobs_CV.exp() * logprobs_CV).sum(-1)
    return chosen_C, entropy_C


def _shifted_logits(
    hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor, temperature: float
) -> Tensor:
    """Return logits [C, V] over the temperature in float32, less each row's largest."""
    logits = (hidden_CD @ weight_VD.T).float()
    logits += bias_V
    if temperature != 1.0:
        logits /= temperature
    logits -= logits.amax(-1, keepdim=True)
    return logits


class _Head(torch.autograd.Function):
    """Keeps [N] log-normalisers for the backward pass, not [N, V] logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        chosen, entropy, normaliser = [], [], []
        for hidden_CD, targets_C in _chunks(hidden_ND, targets_N, len(bias_V)):
            logits_CV = _shifted_logits(hidden_CD, weight_VD, bias_V, temperature)
            exp_CV = logits_CV.exp()
            total_C = exp_CV.sum(-1)
            log_C = total_C.log()
            chosen.append(logits_CV.gather(-1, targets_C[:, None])[:, 0] - log_C)
            mean_logit_C = torch.linalg.vecdot(exp_CV, logits_CV) / total_C
            entropy.append(log_C - mean_logit_C)
            normaliser.append(log_C)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, bias_V, torch.cat(normaliser))
        ctx.temperature = temperature
        entropy_N = torch.cat(entropy)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(chosen), entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, bias_V, normaliser_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_weight = (
            torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        first = 0
        for hidden_CD, targets_C in _chunks(hidden_ND, targets_N, len(bias_V)):
            own = slice(first, first + len(targets_C))
            first = own.stop
            probs_CV = _shifted_logits(hidden_CD, weight_VD, bias_V, ctx.temperature)
            probs_CV -= normaliser_N[own, None]
            probs_CV.exp_()
            scaled_C = grad_N[own].float() / ctx.temperature
            probs_CV *= -scaled_C[:, None]
            probs_CV.scatter_add_(-1, targets_C[:, None], scaled_C[:, None])
            grad_CV = probs_CV.to(weight_VD.dtype)
            if grad_hidden is not None:
                grad_hidden[own] = grad_CV @ weight_VD
            if grad_weight is not None:
                grad_weight += grad_CV.T @ hidden_CD
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VD.dtype),
            None,
            None,
            None,
        )
