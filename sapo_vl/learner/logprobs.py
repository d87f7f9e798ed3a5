"""Log-probs and entropy of response tokens from hidden states, in chunks.

The logits of a whole micro-batch never exist at once: each chunk's are computed, used and dropped,
and recomputed in the backward pass, so memory does not grow with vocabulary x tokens.

Everything runs inside one call of the output head (`LogprobHead`). Under ZeRO-3 its weight is whole
only there, and gathering it is a collective: one call per micro-batch is the same number on every
rank, however many chunks a rank's tokens make.

Legend: N response tokens, C those of a chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**28}
"""Float32 logits held at once by device: 64 MiB, 1 GiB.

The CPU's is measured (docs/performance.md): half as many cost 29 % more time, twice as many save
9 % and cost 69 MB. The GPU's is measured on an H100 (docs/gpu.md): half as many cost 15 % more time
and four times as many save 10 % of it, 1 % of an update, for 4.5 GiB.
"""


class ResponseLogprobs(NamedTuple):
    """The policy's log-probs and entropy at a micro-batch's response tokens, in order."""

    logprobs_N: Tensor  # float32, natural log, at the sampling temperature, with gradient
    entropy_N: Tensor  # float32, nats, detached


ChunkLoss = Callable[[ResponseLogprobs, slice], tuple[Tensor, Tensor]]
"""(a chunk's detached log-probs, its slice of the tokens) -> loss and its gradient [C]."""


class LogprobHead(nn.Linear):
    """An output head whose forward can hand its whole weight to a function.

    `adopt` turns a model's head into one, keeping its weight, name and ties.
    """

    @classmethod
    def adopt(cls, head: nn.Module) -> LogprobHead:
        """Change the class of a bias-free nn.Linear in place, once, and return it."""
        assert type(head) in (nn.Linear, cls), type(head)
        assert head.bias is None, "the head has a bias"
        head.__class__ = cls
        assert isinstance(head, cls)
        return head

    def forward(
        self,
        hidden_ND: Tensor,
        function: Callable[[Tensor, Tensor], tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """Return function(weight [V, D], hidden [N, D]); without a function, the logits."""
        if function is None:
            return super().forward(hidden_ND)
        return function(self.weight, hidden_ND)


def response_logprobs(
    head: LogprobHead, hidden_ND: Tensor, targets_N: Tensor, bias_V: Tensor, temperature: float
) -> ResponseLogprobs:
    """Return log-softmax((head(hidden) + bias) / temperature) at the targets, and its entropy.

    `hidden_ND` are the states that predict the targets; `bias_V` is BAN_BIAS at banned ids and 0
    elsewhere, the same that the sampler adds. The softmax is float32 whatever the head's type.
    """

    def score(weight_VD: Tensor, hidden_ND: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = _Head.apply(
            hidden_ND, weight_VD, targets_N, bias_V, temperature
        )
        return outputs

    logprobs_N, entropy_N = head(hidden_ND, score)
    return ResponseLogprobs(logprobs_N, entropy_N)


def _chunks(hidden_ND: Tensor, targets_N: Tensor, vocabulary: int) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK_LOGITS[hidden_ND.device.type] // vocabulary)
    return list(zip(hidden_ND.split(rows), targets_N.split(rows), strict=True))


def _logits(
    hidden_CD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    temperature: float,
    out_CV: Tensor | None = None,
) -> Tensor:
    """Return logits [C, V] / temperature, written to `out_CV` if given.

    The product is float32 whatever the types of its factors, as in the sampler (head_dtype in
    generator/engine_options.py): bfloat16 logits of 16 to 32 would have steps of 0.125. CUDA adds
    the products of bfloat16 factors up in float32; a CPU has no such product and converts them.
    """
    if weight_VD.dtype != torch.float32 and weight_VD.is_cuda:
        logits = torch.mm(hidden_CD, weight_VD.T, out_dtype=torch.float32, out=out_CV)
        logits += bias_V
    elif out_CV is not None:
        logits = torch.addmm(bias_V, hidden_CD.float(), weight_VD.float().T, out=out_CV)
    else:
        logits = hidden_CD.float() @ weight_VD.float().T
        logits += bias_V
    if temperature != 1.0:
        logits /= temperature
    return logits


def fused_loss(
    head: LogprobHead,
    hidden_ND: Tensor,
    targets_N: Tensor,
    bias_V: Tensor,
    temperature: float,
    chunk_loss: ChunkLoss,
) -> tuple[Tensor, ResponseLogprobs]:
    """Return (loss, detached log-probs) of a loss that is a sum over tokens.

    The gradient is computed while a chunk's logits exist, so they are computed once, not twice, and
    the backward pass only scales it. For a loss whose tokens depend on each other (a sequence-level
    ratio) use `response_logprobs`.
    """

    def score(weight_VD: Tensor, hidden_ND: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = _FusedHead.apply(
            hidden_ND, weight_VD, targets_N, bias_V, temperature, chunk_loss
        )
        return outputs

    loss, chosen_N, entropy_N = head(hidden_ND, score)
    return loss, ResponseLogprobs(chosen_N, entropy_N)


class _FusedHead(torch.autograd.Function):
    """Computes the gradients with respect to states [N, D] and weight [V, D], chunk by chunk.

    With e = exp(logits - largest), the one product m = e W serves twice: the logits' mean under
    the softmax is m . h / sum(e), which gives the entropy, and the states' gradient is
    g (W[target] - m / sum(e)). So no pass over [C, V] is needed beyond exp and the products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor,
        temperature: float,
        chunk_loss: ChunkLoss,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = (
            torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        chosen, entropy, first = [], [], 0
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        chunks = _chunks(hidden_ND, targets_N, len(bias_V))
        # One buffer for all chunks: fresh pages cost as much as the exponentials.
        buffer = torch.empty(len(chunks[0][1]), len(bias_V), device=bias_V.device)
        for hidden_CD, targets_C in chunks:
            chunk = slice(first, first + len(targets_C))
            first = chunk.stop
            exp_CV = _logits(hidden_CD, weight_VD, bias_V, temperature, buffer[: len(targets_C)])
            largest_C = exp_CV.amax(-1)
            chosen_C = exp_CV.gather(-1, targets_C[:, None])[:, 0] - largest_C
            exp_CV -= largest_C[:, None]
            exp_CV.exp_()
            total_C = exp_CV.sum(-1)
            low_CV = exp_CV.to(weight_VD.dtype)
            mixed_CD = low_CV @ weight_VD
            mean_C = torch.linalg.vecdot(mixed_CD.float(), hidden_CD.float()) + exp_CV @ bias_V
            mean_C = mean_C / total_C / temperature - largest_C
            chosen.append(chosen_C - total_C.log())
            entropy.append(total_C.log() - mean_C)
            share, grad_C = chunk_loss(ResponseLogprobs(chosen[-1], entropy[-1]), chunk)
            loss += share
            grad_C1 = (grad_C / temperature)[:, None]
            part_C1 = grad_C1 / total_C[:, None]
            grad_hidden[chunk] = weight_VD[targets_C] * grad_C1 - mixed_CD * part_C1
            if grad_weight is not None:
                scaled_CD = (hidden_CD * -part_C1).to(weight_VD.dtype)
                if grad_weight.dtype == scaled_CD.dtype:
                    grad_weight.addmm_(low_CV.T, scaled_CD)
                else:
                    grad_weight += low_CV.T @ scaled_CD
                grad_weight.index_add_(0, targets_C, (hidden_CD * grad_C1).float())
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VD.dtype
        outputs = torch.cat(chosen), torch.cat(entropy)
        ctx.mark_non_differentiable(*outputs)
        return loss, *outputs

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_weight is not None:  # in place: it is as large as the weight itself
            grad_weight = grad_weight.mul_(grad_loss).to(ctx.weight_dtype)
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_weight, *[None] * 4


class _Head(torch.autograd.Function):
    """Saves [N] log-normalisers for the backward pass instead of [N, V] logits."""

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
            logits_CV = _logits(hidden_CD, weight_VD, bias_V, temperature)
            log_C = logits_CV.logsumexp(-1)
            chosen.append(logits_CV.gather(-1, targets_C[:, None])[:, 0] - log_C)
            logits_CV -= log_C[:, None]
            entropy.append(-torch.linalg.vecdot(logits_CV.exp(), logits_CV))
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
            chunk = slice(first, first + len(targets_C))
            first = chunk.stop
            probs_CV = _logits(hidden_CD, weight_VD, bias_V, ctx.temperature)
            probs_CV -= normaliser_N[chunk, None]
            probs_CV.exp_()
            scaled_C = grad_N[chunk].float() / ctx.temperature
            probs_CV *= -scaled_C[:, None]
            probs_CV.scatter_add_(-1, targets_C[:, None], scaled_C[:, None])
            grad_CV = probs_CV.to(weight_VD.dtype)
            if grad_hidden is not None:
                grad_hidden[chunk] = grad_CV @ weight_VD
            if grad_weight is not None:
                grad_weight += grad_CV.T @ hidden_CD
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VD.dtype),
            None,
            None,
            None,
        )
