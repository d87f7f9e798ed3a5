"""Log-probs and entropy of response tokens from hidden states, in chunks: pure.

Legend: N response tokens, D hidden width, V vocabulary. Logits of the whole micro-batch never
exist: each chunk's are made, used and (in the backward pass) made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BAN_BIAS = -100.0
"""Added to the logit of a banned id, by sampler and learner alike: exp(-100) is 0 in practice."""

CHUNK_LOGITS = 2**26
"""Logits held at once (256 MiB in float32)."""


class ResponseLogprobs(NamedTuple):
    """What the policy says of the response tokens of a micro-batch, one after the other."""

    logprobs_N: Tensor  # float32, natural log, at the sampling temperature, with gradient
    entropy_N: Tensor  # float32, nats, detached


def response_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    targets_N: Tensor,
    bias_V: Tensor,
    temperature: float,
) -> ResponseLogprobs:
    """Return log-softmax((head(hidden) + bias) / temperature) at the targets, and its entropy.

    `hidden_ND` are the states that predict the targets; `bias_V` is BAN_BIAS at banned ids and 0
    elsewhere, the same that the sampler adds. The softmax is float32 whatever the head's type.
    """
    rows = max(1, CHUNK_LOGITS // bias_V.shape[0])
    parts = [
        checkpoint(_chunk, head, h, t, bias_V, temperature, use_reentrant=False)
        if torch.is_grad_enabled() and len(hidden_ND) > rows
        else _chunk(head, h, t, bias_V, temperature)
        for h, t in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    ]
    return ResponseLogprobs(
        torch.cat([p[0] for p in parts]), torch.cat([p[1].detach() for p in parts])
    )


def _chunk(
    head: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    targets_N: Tensor,
    bias_V: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    logprobs_NV = ((head(hidden_ND).float() + bias_V) / temperature).log_softmax(-1)
    chosen_N = logprobs_NV.gather(-1, targets_N[:, None])[:, 0]
    with torch.no_grad():
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return chosen_N, entropy_N
