"""The shared-prefix layout: a prompt and its images once, then all its responses, no padding.

A micro-batch is one row [1, T]: prompt, y1 .. yG, next prompt, ... A response's last token is left
out, because nothing is predicted from it. A response's first token is predicted from its prompt's
last state, gathered once per response. attention.py keeps responses from seeing each other.

Legend: T tokens of the row, N response tokens, D hidden width, M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from sapo_vl.learner import attention, gated_delta
from sapo_vl.learner.attention import SharedPrefix
from sapo_vl.learner.layout import ImageFeatures
from sapo_vl.schema import Rollout


@dataclass(slots=True)
class PackedBatch:
    """Tensors of one micro-batch, on the learner's device."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [3, 1, T]
    prefixes: SharedPrefix  # which tokens see which
    pixel_values: Tensor | None  # patches of each prompt's images, once
    image_grid_thw: Tensor | None  # [M, 3]
    source_N: Tensor  # index in the row of the state that predicts each response token
    targets_N: Tensor  # the response tokens, rollout after rollout


class SharedPrefixLayout:
    """See the module and `Layout`."""

    def __init__(self, model: nn.Module, form: str, delta_nets: Sequence[nn.Module] = ()) -> None:
        """Switch the model's text layers to shared-prefix attention, in one of attention.FORMS.

        `delta_nets` are the gated delta nets among them.
        """
        attention.install(model, form)
        gated_delta.install(delta_nets)

    def plan(self, rollouts: Sequence[Rollout], budget: int) -> list[list[Rollout]]:
        """Cut rollouts into micro-batches of at most `budget` tokens, each prompt counted once.

        Rollouts of one Prompt object stay together; a group longer than the budget is split, and
        each part counts the prompt again. Parts go, largest first, into the first micro-batch with
        room (first-fit decreasing). A rollout longer than the budget gets one of its own.
        """
        groups: dict[int, list[Rollout]] = {}
        for rollout in rollouts:
            groups.setdefault(id(rollout.prompt), []).append(rollout)
        parts = [part for group in groups.values() for part in _split(group, budget)]
        parts.sort(key=packed_tokens, reverse=True)  # stable: equal parts keep the given order
        batches: list[list[Rollout]] = []
        room: list[int] = []
        for part in parts:
            tokens = packed_tokens(part)
            index = next((i for i, free in enumerate(room) if free >= tokens), None)
            if index is None:
                batches.append([])
                room.append(budget)
                index = len(batches) - 1
            batches[index].extend(part)
            room[index] -= tokens
        return batches

    def collate(self, rollouts: Sequence[Rollout], device: torch.device) -> PackedBatch:
        """Pack rollouts into a row; neighbours with the same Prompt object share it."""
        ids: list[int] = []
        positions, sources, targets, groups, pixels, grids = [], [], [], [], [], []
        for _, run in groupby(rollouts, key=lambda rollout: id(rollout.prompt)):
            members = list(run)
            prompt = members[0].prompt
            ids.extend(prompt.expanded_ids)
            positions.append(prompt.position_ids)
            last = len(ids) - 1
            if prompt.pixel_values is not None and prompt.grid_thw is not None:
                pixels.append(prompt.pixel_values)
                grids.append(prompt.grid_thw)
            for rollout in members:
                length = len(rollout.token_ids) - 1
                sources.append(
                    torch.cat([torch.tensor([last]), torch.arange(len(ids), len(ids) + length)])
                )
                targets.append(torch.tensor(rollout.token_ids))
                positions.append((torch.arange(length) + prompt.next_position).expand(3, -1))
                ids.extend(rollout.token_ids[:-1])
            groups.append((len(prompt.expanded_ids), [len(r.token_ids) - 1 for r in members]))
        return PackedBatch(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.cat(positions, dim=1)[:, None].to(device),
            prefixes=SharedPrefix.build(groups, device),
            pixel_values=torch.cat(pixels).to(device) if pixels else None,
            image_grid_thw=torch.cat(grids).to(device) if grids else None,
            source_N=torch.cat(sources).to(device),
            targets_N=torch.cat(targets).to(device),
        )

    def hidden_states(self, base: Any, batch: PackedBatch, images: ImageFeatures | None) -> Tensor:
        """See `Layout`."""
        out = base(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            mm_encoder_outputs=images,
            use_cache=False,
            layout=batch.prefixes,
        )
        return out.last_hidden_state[0, batch.source_N]


def packed_tokens(group: Sequence[Rollout]) -> int:
    """Return how many tokens rollouts of one prompt take in a row.

    The prompt once, and each response without its last token, from which nothing is predicted.
    """
    return len(group[0].prompt.expanded_ids) + sum(len(r.token_ids) - 1 for r in group)


def _split(group: list[Rollout], budget: int) -> list[list[Rollout]]:
    parts: list[list[Rollout]] = []
    for rollout in group:
        if not parts or packed_tokens([*parts[-1], rollout]) > budget:
            parts.append([])
        parts[-1].append(rollout)
    return parts
