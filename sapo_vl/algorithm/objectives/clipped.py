"""The clipped surrogate that GRPO, DAPO, Dr. GRPO and GSPO share: pure.

Legend: T response tokens of a micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapo_vl.algorithm.sapo import Surrogate


def clipped(
    ratio_T: Tensor,
    log_ratio_T: Tensor,
    clamped: Tensor,
    advantages_T: Tensor,
    weights_T: Tensor,
    low: float,
    high: float,
) -> Surrogate:
    """Return -sum weights * min(r * A, clip(r, 1 - low, 1 + high) * A).

    The gradient of a token is weights * r * A while the minimum is the unclipped one, else 0: r may
    leave the bounds on the side that lowers the objective (A > 0 and r < 1 - low, A < 0 and
    r > 1 + high) and keeps its gradient there.
    """
    scale_T = weights_T * advantages_T
    bounded = ratio_T.clamp(1.0 - low, 1.0 + high)
    value = torch.where(
        advantages_T >= 0, torch.minimum(ratio_T, bounded), torch.maximum(ratio_T, bounded)
    )
    with torch.no_grad():
        centred = (scale_T * (value - 1.0)).sum()
        inside = torch.where(advantages_T >= 0, ratio_T <= 1.0 + high, ratio_T >= 1.0 - low)
        weight = inside.to(ratio_T.dtype)
    return Surrogate(
        -(scale_T * value).sum(),
        centred,
        log_ratio_T.detach(),
        weight,
        weight * ratio_T.detach(),
        clamped,
    )
