"""What a micro-batch's loss needs of each token besides its log-prob.

Legend: T response tokens of a micro-batch, R its responses, C the tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sapo_vl.algorithm.objectives import Objective
from sapo_vl.algorithm.surrogate import LossInputs, mismatch_weight
from sapo_vl.schema import Rollout


@dataclass(slots=True)
class TokenConstants:
    """Per-token constants of a micro-batch's loss, on the learner's device."""

    advantages_T: Tensor
    weights_T: Tensor  # aggregation weight with the global denominator; 0 for fillers
    old_logprobs_T: Tensor | None  # None: on policy, the forward's own
    generator_logprobs_T: Tensor | None  # None in supervised training
    lengths_R: Tensor  # tokens of each response
    reference_logprobs_T: Tensor | None = None  # None without a KL penalty

    def inputs(self, logprobs_C: Tensor, chunk: slice, importance_cap: float | None) -> LossInputs:
        """Return the loss inputs of a chunk of the tokens, given their log-probs.

        With an `importance_cap` the weights include min(pi_old / mu, cap).
        """
        old_C, weights_C = logprobs_C.detach(), self.weights_T[chunk]
        if self.old_logprobs_T is not None:
            old_C = self.old_logprobs_T[chunk]
        if importance_cap is not None:
            assert self.generator_logprobs_T is not None, "rollouts without the sampler's log-probs"
            mu_C = self.generator_logprobs_T[chunk]
            weights_C = weights_C * mismatch_weight(old_C, mu_C, importance_cap)
        advantages_C, reference_T = self.advantages_T[chunk], self.reference_logprobs_T
        reference_C = None if reference_T is None else reference_T[chunk]
        return LossInputs(logprobs_C, old_C, advantages_C, weights_C, self.lengths_R, reference_C)


def token_constants(
    batch: Sequence[Rollout], objective: Objective, denominator: float, device: torch.device
) -> TokenConstants:
    """Return the constants of a micro-batch; `denominator` is the aggregation's, over all ranks."""
    lengths = [len(rollout.token_ids) for rollout in batch]
    weight = objective.aggregation.token

    def repeat(values: list[float]) -> Tensor:
        return torch.repeat_interleave(
            torch.tensor(values, dtype=torch.float32), torch.tensor(lengths)
        ).to(device)

    def concatenate(arrays: list[np.ndarray | None]) -> Tensor | None:
        present = [a for a in arrays if a is not None]
        if len(present) < len(arrays):
            return None
        return torch.from_numpy(np.concatenate(present)).to(device)

    return TokenConstants(
        advantages_T=repeat([r.advantage for r in batch]),
        weights_T=repeat([0.0 if r.is_filler else weight(r) / denominator for r in batch]),
        old_logprobs_T=concatenate([r.old_logprobs for r in batch]),
        generator_logprobs_T=concatenate([r.generator_logprobs for r in batch]),
        lengths_R=torch.tensor(lengths, device=device),
        reference_logprobs_T=concatenate([r.reference_logprobs for r in batch]),
    )
