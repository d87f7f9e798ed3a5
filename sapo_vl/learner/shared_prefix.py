"""The packed layout: a prompt and its picture once, then all its responses, with no padding.

One row [1, T] a micro-batch: prompt, y1 .. yG, next prompt, ... A response's last token is not in
it, because nothing is predicted from it. The state that predicts a response's first token is its
prompt's last one, gathered once per response. Attention is attention.py's.

Legend: T tokens of the row, N response tokens, M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from sapo_vl.learner.attention import SharedPrefix
from sapo_vl.learner.rows import TrainRow


@dataclass(slots=True)
class PackedBatch:
    """Tensors of one micro-batch, on the learner's device."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [3, 1, T]
    layout: SharedPrefix  # who sees whom
    pixel_values: Tensor | None  # patches of each prompt's pictures, once
    image_grid_thw: Tensor | None  # [M, 3]
    source_N: Tensor  # where in the row the state is that predicts each response token
    targets_N: Tensor  # the response tokens, row after row


def collate(rows: Sequence[TrainRow], device: torch.device) -> PackedBatch:
    """Pack rows; neighbours with the same prompt object share it."""
    ids: list[int] = []
    positions, sources, targets, groups, pixels, grids = [], [], [], [], [], []
    for _, run in groupby(rows, key=lambda row: id(row.prompt)):
        members = list(run)
        prompt = members[0].prompt
        ids.extend(prompt.expanded_ids)
        positions.append(prompt.position_ids)
        last = len(ids) - 1
        if prompt.pixel_values is not None and prompt.grid_thw is not None:
            pixels.append(prompt.pixel_values)
            grids.append(prompt.grid_thw)
        for row in members:
            length = len(row.token_ids) - 1
            sources.append(
                torch.cat([torch.tensor([last]), torch.arange(len(ids), len(ids) + length)])
            )
            targets.append(torch.tensor(row.token_ids))
            positions.append((torch.arange(length) + prompt.next_position).expand(3, -1))
            ids.extend(row.token_ids[:-1])
        groups.append((len(prompt.expanded_ids), [len(row.token_ids) - 1 for row in members]))
    return PackedBatch(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.cat(positions, dim=1)[:, None].to(device),
        layout=SharedPrefix.build(groups, device),
        pixel_values=torch.cat(pixels).to(device) if pixels else None,
        image_grid_thw=torch.cat(grids).to(device) if grids else None,
        source_N=torch.cat(sources).to(device),
        targets_N=torch.cat(targets).to(device),
    )


def hidden_states(base: Any, batch: PackedBatch, images: dict[str, Any] | None) -> Tensor:
    """Return the states [N, D] that predict the response tokens; `base` has no head.

    `images` holds the vision tower's outputs for the batch's pictures.
    """
    out = base(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        mm_encoder_outputs=images,
        use_cache=False,
        layout=batch.layout,
    )
    return out.last_hidden_state[0, batch.source_N]
