"""The protocol of the two layouts: how rollouts are arranged in a micro-batch.

`SharedPrefixLayout` (shared_prefix.py) computes a group's prompt once; `PaddedLayout` (padded.py)
repeats it per response and is the reference for tests. The loss does not depend on the layout or on
how rollouts are distributed over micro-batches: token weights carry one global denominator (see
algorithm/surrogate.py).

Legend: N response tokens of a micro-batch, D hidden width, M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from sapo_vl.schema import Rollout

ImageFeatures = dict[str, Any]
"""The vision tower's outputs under the name that the model's forward takes, e.g. {"image": ..}."""


class Batch(Protocol):
    """The tensors that every layout's batch holds, on the learner's device."""

    pixel_values: Tensor | None  # patches of the images, in the layout's order
    image_grid_thw: Tensor | None  # [M, 3]
    targets_N: Tensor  # the response tokens, rollout after rollout


BatchT = TypeVar("BatchT", bound=Batch)


class Layout(Protocol[BatchT]):
    """Plans micro-batches, collates them, and reads the states that predict response tokens."""

    def plan(self, rollouts: Sequence[Rollout], budget: int) -> list[list[Rollout]]:
        """Cut rollouts into micro-batches of at most `budget` tokens, the largest first.

        Micro-batches hold the same Rollout objects, not copies, so results can be written back in
        place. The largest come first, so that running out of memory shows at once.
        """
        ...

    def collate(self, rollouts: Sequence[Rollout], device: torch.device) -> BatchT:
        """Return one micro-batch's tensors."""
        ...

    def hidden_states(self, base: Any, batch: BatchT, images: ImageFeatures | None) -> Tensor:
        """Return the states [N, D] that predict the response tokens; `base` has no head.

        `images` holds the vision tower's outputs for the batch's images, None without any.
        """
        ...
