"""The one forward path: rows of responses in, their log-probs and entropy out.

SAPO, supervised warm-up, old log-probs and checks all come through here. It is a module, so that
DeepSpeed's hooks see every parameter being used inside one forward call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from sapo_vl.algorithm.sapo import Surrogate, joined
from sapo_vl.learner import attention, logprobs, padded
from sapo_vl.learner import shared_prefix as packed
from sapo_vl.learner.logprobs import ResponseLogprobs
from sapo_vl.learner.rows import TrainRow
from sapo_vl.model.assets import BAN_BIAS, ModelAssets
from sapo_vl.system import distributed

TokenObjective = Callable[[ResponseLogprobs, slice], Surrogate]
"""The loss of a slice of a micro-batch's response tokens, which may be all of them."""


class Scored(NamedTuple):
    """What a forward returns."""

    out: ResponseLogprobs
    surrogate: Surrogate | None  # none without an objective


class Policy(nn.Module):
    """A Hugging Face model that returns log-probs of responses."""

    model: Any  # the Hugging Face module
    bias_V: torch.Tensor  # [V] BAN_BIAS at banned ids, 0 elsewhere

    def __init__(
        self, model: nn.Module, assets: ModelAssets, temperature: float, packing: str
    ) -> None:
        """`temperature` is the one of sampling: logits are divided by it; `packing` see PLANS."""
        super().__init__()
        self.model = model
        self._temperature = temperature
        self._image_token_id = assets.image_token_id
        self._pad_id = assets.tokenizer.pad_token_id or 0
        bias = torch.zeros(self.model.get_input_embeddings().num_embeddings)
        bias[list(assets.banned_ids)] = BAN_BIAS
        self.register_buffer("bias_V", bias, persistent=False)
        self._blank = _blank_image(assets)
        self._packed = packing == "shared_prefix"
        if self._packed:
            attention.use(model, attention.best_form(distributed.device()))

    def forward(
        self,
        rows: Sequence[TrainRow],
        objective: TokenObjective | None = None,
        *,
        by_token: bool = True,
    ) -> Scored:
        """Return log-probs [N] of all response tokens of `rows`, in the order of the rows.

        With an `objective` the loss is computed too. One that is a sum over tokens (`by_token`)
        gets its gradient while the logits exist; any other needs them a second time.
        """
        device = self.bias_V.device
        batch: packed.PackedBatch | padded.PaddedBatch
        if self._packed:
            batch = packed.collate(rows, device)
        else:
            batch = padded.collate(rows, self._image_token_id, self._pad_id, device)
        vision = self._see(batch.pixel_values, batch.image_grid_thw, device)
        images = None if batch.pixel_values is None else {"image": vision}
        if isinstance(batch, packed.PackedBatch):
            hidden = packed.hidden_states(self.model.model, batch, images)
        else:
            hidden = padded.hidden_states(self.model.model, batch, images)
        if images is None:
            hidden = hidden + 0.0 * _sum_of(vision).to(hidden.dtype)
        return self._scored(hidden, batch.targets_N, objective, by_token)

    def _scored(
        self,
        hidden_ND: torch.Tensor,
        targets_N: torch.Tensor,
        objective: TokenObjective | None,
        by_token: bool,
    ) -> Scored:
        head = self.model.lm_head
        if objective is None or not by_token or not logprobs.is_plain(head):
            out = logprobs.response_logprobs(
                head, hidden_ND, targets_N, self.bias_V, self._temperature
            )
            everything = slice(0, len(targets_N))
            return Scored(out, objective(out, everything) if objective else None)
        parts: list[Surrogate] = []

        def chunk_loss(out: ResponseLogprobs, own: slice) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.enable_grad():
                chosen = out.logprobs_N.detach().requires_grad_()
                part = objective(ResponseLogprobs(chosen, out.entropy_N), own)
                (grad,) = torch.autograd.grad(part.loss, chosen)
            parts.append(part._replace(loss=part.loss.detach()))
            return parts[-1].loss, grad

        loss, out = logprobs.fused_loss(
            head.weight, hidden_ND, targets_N, self.bias_V, self._temperature, chunk_loss
        )
        return Scored(out, joined(parts)._replace(loss=loss))

    def _see(
        self, pixels: torch.Tensor | None, grid: torch.Tensor | None, device: torch.device
    ) -> Any:
        """Run the vision tower, always first and always: on a blank picture if there is none.

        A rank whose micro-batch has only text must take part in the collectives of the tower's
        parameters, mergers and deepstack included, in the same order as the others, forward and
        backward (EasyR1 #468, transformers #37186).
        """
        if pixels is None or grid is None:
            pixels, grid = (x.to(device) for x in self._blank)
        return self.model.model.get_image_features(pixels, grid, return_dict=True)


def _sum_of(vision: Any) -> torch.Tensor:
    parts = [*vision.pooler_output]
    for features in getattr(vision, "deepstack_features", None) or []:
        parts.extend(features)
    return torch.stack([p.float().sum() for p in parts]).sum()


def _blank_image(assets: ModelAssets) -> tuple[torch.Tensor, torch.Tensor]:
    from PIL import Image

    side = assets.factor
    out = assets.processor.image_processor(
        images=[Image.new("RGB", (side, side), "white")], do_resize=False, return_tensors="pt"
    )
    return out["pixel_values"], out["image_grid_thw"]
