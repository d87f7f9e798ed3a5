"""The one forward path: rows of responses in, their log-probs and entropy out.

SAPO, supervised warm-up, old log-probs and checks all come through here. It is a module, so that
DeepSpeed's hooks see every parameter being used inside one forward call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sapo_vl import attention, distributed
from sapo_vl.learner import packed, padded
from sapo_vl.logprobs import BAN_BIAS, ResponseLogprobs, response_logprobs
from sapo_vl.model import ModelFolder
from sapo_vl.packing import TrainRow


class Policy(nn.Module):
    """A Hugging Face model that returns log-probs of responses."""

    model: Any  # the Hugging Face module
    bias_V: torch.Tensor  # [V] BAN_BIAS at banned ids, 0 elsewhere

    def __init__(
        self, model: nn.Module, folder: ModelFolder, temperature: float, packing: str
    ) -> None:
        """`temperature` is the one of sampling: logits are divided by it; `packing` see PLANS."""
        super().__init__()
        self.model = model
        self._temperature = temperature
        self._image_token_id = folder.image_token_id
        self._pad_id = folder.tokenizer.pad_token_id or 0
        bias = torch.zeros(self.model.get_input_embeddings().num_embeddings)
        bias[list(folder.banned_ids)] = BAN_BIAS
        self.register_buffer("bias_V", bias, persistent=False)
        self._blank = _blank_image(folder)
        self._packed = packing == "shared_prefix"
        if self._packed:
            attention.use(model, attention.best_form(distributed.device()))

    def forward(self, rows: Sequence[TrainRow]) -> ResponseLogprobs:
        """Return log-probs [N] of all response tokens of `rows`, in the order of the rows."""
        device = self.bias_V.device
        batch: packed.PackedBatch | padded.PaddedBatch
        if self._packed:
            batch = packed.collate(rows, device)
            hidden = packed.hidden_states(self.model.model, batch)
        else:
            batch = padded.collate(rows, self._image_token_id, self._pad_id, device)
            hidden = padded.hidden_states(self.model.model, batch)
        if batch.pixel_values is None:
            hidden = hidden + 0.0 * self._idle_vision(device).to(hidden.dtype)
        return response_logprobs(
            self.model.lm_head, hidden, batch.targets_N, self.bias_V, self._temperature
        )

    def _idle_vision(self, device: torch.device) -> torch.Tensor:
        """Run the vision tower on a blank picture and return the sum of all its outputs.

        A rank whose micro-batch has only text must still take part in the collectives of the
        tower's parameters, mergers and deepstack included (EasyR1 #468, transformers #37186).
        """
        pixels, grid = self._blank
        out = self.model.model.get_image_features(
            pixels.to(device), grid.to(device), return_dict=True
        )
        parts = [*out.pooler_output]
        for features in getattr(out, "deepstack_features", None) or []:
            parts.extend(features)
        return torch.stack([p.float().sum() for p in parts]).sum()


def _blank_image(folder: ModelFolder) -> tuple[torch.Tensor, torch.Tensor]:
    from PIL import Image

    side = folder.factor
    out = folder.processor.image_processor(
        images=[Image.new("RGB", (side, side), "white")], do_resize=False, return_tensors="pt"
    )
    return out["pixel_values"], out["image_grid_thw"]
