"""The reference layout: each response with its own copy of its prompt, padded to the longest.

Right-padded rows [B, L]; a picture is passed once per response. Slow, plain, and what every other
layout is compared with. Legend: B rows, L longest row, N response tokens, K patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapo_vl.learner.rows import TrainRow


@dataclass(slots=True)
class PaddedBatch:
    """Tensors of one micro-batch, on the learner's device."""

    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L], 1 on tokens
    position_ids: Tensor  # [3, B, L]
    mm_token_type_ids: Tensor  # [B, L], 1 on image tokens
    pixel_values: Tensor | None  # [K, D]
    image_grid_thw: Tensor | None  # [images, 3]
    row_N: Tensor  # row of each response token
    column_N: Tensor  # column of the token that predicts it
    targets_N: Tensor  # the response tokens


def collate(
    rows: Sequence[TrainRow], image_token_id: int, pad_id: int, device: torch.device
) -> PaddedBatch:
    """Lay the rows side by side."""
    width = max(row.length for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    types = torch.zeros(len(rows), width, dtype=torch.int)
    positions = torch.zeros(3, len(rows), width, dtype=torch.long)
    columns, owners, targets = [], [], []
    for i, row in enumerate(rows):
        start, end = len(row.prompt.expanded_ids), row.length
        ids[i, :end] = torch.tensor(row.prompt.expanded_ids + row.token_ids)
        mask[i, :end] = 1
        # Only the prompt's span: a response can hold no image, whatever its ids (verl #3469).
        types[i, :start] = (ids[i, :start] == image_token_id).int()
        positions[:, i, :start] = row.prompt.position_ids
        positions[:, i, start:end] = torch.arange(end - start) + row.prompt.next_position
        columns.append(torch.arange(start - 1, end - 1))
        owners.append(torch.full((end - start,), i))
        targets.append(ids[i, start:end])
    pixels = [r.prompt.pixel_values for r in rows if r.prompt.pixel_values is not None]
    grids = [r.prompt.grid_thw for r in rows if r.prompt.grid_thw is not None]
    return PaddedBatch(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        mm_token_type_ids=types.to(device),
        pixel_values=torch.cat(pixels).to(device) if pixels else None,
        image_grid_thw=torch.cat(grids).to(device) if grids else None,
        row_N=torch.cat(owners).to(device),
        column_N=torch.cat(columns).to(device),
        targets_N=torch.cat(targets).to(device),
    )


def hidden_states(base: Any, batch: PaddedBatch, images: dict[str, Any] | None) -> Tensor:
    """Return the states [N, D] that predict the response tokens; `base` has no head.

    `images` holds the vision tower's outputs for the batch's pictures.
    """
    out = base(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        mm_token_type_ids=batch.mm_token_type_ids,
        mm_encoder_outputs=images,
        use_cache=False,
    )
    return out.last_hidden_state[batch.row_N, batch.column_N]
