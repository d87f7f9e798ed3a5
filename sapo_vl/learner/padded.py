"""The padded layout: each response with its own copy of its prompt, right-padded to the longest.

Rows [B, L]; an image is encoded once per response. Slow and plain: the reference that the
shared-prefix layout is compared with.

Legend: B rows, L longest row, N response tokens, K patches, M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapo_vl.learner.layout import ImageFeatures
from sapo_vl.schema import Rollout


@dataclass(slots=True)
class PaddedBatch:
    """Tensors of one micro-batch, on the learner's device."""

    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L], 1 on tokens
    position_ids: Tensor  # [3, B, L]
    mm_token_type_ids: Tensor  # [B, L], 1 on image tokens
    pixel_values: Tensor | None  # [K, channels * temporal * patch^2]
    image_grid_thw: Tensor | None  # [M, 3]
    row_N: Tensor  # row of each response token
    column_N: Tensor  # column of the state that predicts it
    targets_N: Tensor  # the response tokens, rollout after rollout


class PaddedLayout:
    """See the module and `Layout`."""

    def __init__(self, image_token_id: int, pad_id: int) -> None:
        self._image_token_id, self._pad_id = image_token_id, pad_id

    def plan(self, rollouts: Sequence[Rollout], budget: int) -> list[list[Rollout]]:
        """Cut rollouts into micro-batches of at most `budget` padded tokens each, longest first.

        A rollout longer than the budget gets a micro-batch of its own. The order depends on the
        lengths and the given order only.
        """
        order = sorted(range(len(rollouts)), key=lambda i: (-rollouts[i].length, i))
        batches: list[list[Rollout]] = []
        for i in order:
            longest = batches[-1][0].length if batches else 0
            if not batches or longest * (len(batches[-1]) + 1) > budget:
                batches.append([])
            batches[-1].append(rollouts[i])
        return batches

    def collate(self, rollouts: Sequence[Rollout], device: torch.device) -> PaddedBatch:
        """Pad rollouts to equal length, one row each."""
        size, width = len(rollouts), max(rollout.length for rollout in rollouts)
        ids = torch.full((size, width), self._pad_id)
        mask = torch.zeros(size, width, dtype=torch.long)
        types = torch.zeros(size, width, dtype=torch.int)
        positions = torch.zeros(3, size, width, dtype=torch.long)
        columns, rows, targets = [], [], []
        for i, rollout in enumerate(rollouts):
            prompt, end = rollout.prompt, rollout.length
            start = len(prompt.expanded_ids)
            ids[i, :end] = torch.tensor(prompt.expanded_ids + rollout.token_ids)
            mask[i, :end] = 1
            # Only the prompt's span: a response holds no image, whatever its ids (verl #3469).
            types[i, :start] = (ids[i, :start] == self._image_token_id).int()
            positions[:, i, :start] = prompt.position_ids
            positions[:, i, start:end] = torch.arange(end - start) + prompt.next_position
            columns.append(torch.arange(start - 1, end - 1))
            rows.append(torch.full((end - start,), i))
            targets.append(ids[i, start:end])
        prompts = [rollout.prompt for rollout in rollouts]
        pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
        grids = [p.grid_thw for p in prompts if p.grid_thw is not None]
        return PaddedBatch(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            mm_token_type_ids=types.to(device),
            pixel_values=torch.cat(pixels).to(device) if pixels else None,
            image_grid_thw=torch.cat(grids).to(device) if grids else None,
            row_N=torch.cat(rows).to(device),
            column_N=torch.cat(columns).to(device),
            targets_N=torch.cat(targets).to(device),
        )

    def hidden_states(self, base: Any, batch: PaddedBatch, images: ImageFeatures | None) -> Tensor:
        """See `Layout`."""
        out = base(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            mm_token_type_ids=batch.mm_token_type_ids,
            mm_encoder_outputs=images,
            use_cache=False,
        )
        return out.last_hidden_state[batch.row_N, batch.column_N]
