"""The clipped surrogate that GRPO, DAPO, Dr. GRPO and GSPO share, and its options. Pure.

Legend: T response tokens of a micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sapo_vl.algorithm.surrogate import LossInputs, Ratio, Surrogate


class ClipOptions(BaseModel):
    """Bounds of the importance ratio: [1 - low, 1 + high]. Objectives set their paper's numbers."""

    model_config = ConfigDict(extra="forbid")

    low: float
    high: float

    @staticmethod
    def below(default: float) -> Any:
        """Return the field `low` with an objective's default."""
        return Field(default, ge=0, le=1, description="the ratio is clipped below 1 - low")

    @staticmethod
    def above(default: float) -> Any:
        """Return the field `high` with an objective's default."""
        return Field(default, ge=0, description="the ratio is clipped above 1 + high")


def clipped(inputs: LossInputs, ratio: Ratio, ratio_T: Tensor, bounds: ClipOptions) -> Surrogate:
    """Return -sum weights * min(r * A, clip(r, 1 - low, 1 + high) * A) with r = `ratio_T`.

    The gradient of a token is weights * r * A while the minimum is the unclipped one, else 0: r may
    leave the bounds on the side that lowers the objective (A > 0 and r < 1 - low, A < 0 and
    r > 1 + high) and keeps its gradient there. `ratio` holds the tokens' own ratios, for
    telemetry.
    """
    low, high = 1.0 - bounds.low, 1.0 + bounds.high
    advantages_T = inputs.advantages_T
    scale_T = inputs.weights_T * advantages_T
    bounded_T = ratio_T.clamp(low, high)
    value_T = torch.where(
        advantages_T >= 0, torch.minimum(ratio_T, bounded_T), torch.maximum(ratio_T, bounded_T)
    )
    with torch.no_grad():
        centered = (scale_T * (value_T - 1.0)).sum()
        inside = torch.where(advantages_T >= 0, ratio_T <= high, ratio_T >= low)
        weight_T = inside.to(ratio_T.dtype)
    return Surrogate(
        -(scale_T * value_T).sum(),
        centered,
        ratio.log_T.detach(),
        weight_T,
        weight_T * ratio_T.detach(),
        ratio.clamped,
    )
