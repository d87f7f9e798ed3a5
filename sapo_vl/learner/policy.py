"""The only forward path: rollouts in, their tokens' log-probs and entropy out.

RL, supervised warm-up, old log-probs and parity checks all use it. Policy is an nn.Module so that
DeepSpeed's hooks see every parameter used inside one forward call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from sapo_vl.algorithm.surrogate import Surrogate, concatenate
from sapo_vl.learner import logprobs
from sapo_vl.learner.attention import choose_form
from sapo_vl.learner.layout import Layout
from sapo_vl.learner.logprobs import LogprobHead, ResponseLogprobs
from sapo_vl.learner.padded import PaddedLayout
from sapo_vl.learner.shared_prefix import SharedPrefixLayout
from sapo_vl.model.assets import BAN_BIAS, ModelAssets
from sapo_vl.schema import Rollout
from sapo_vl.system import distributed

ChunkObjective = Callable[[ResponseLogprobs, slice], Surrogate]
"""The loss of a slice of a micro-batch's response tokens, which may be all of them."""


class PolicyOutput(NamedTuple):
    """The result of a forward pass."""

    out: ResponseLogprobs
    surrogate: Surrogate | None  # None without an objective


class Policy(nn.Module):
    """A Hugging Face model that returns log-probs of responses."""

    model: Any  # the Hugging Face module
    bias_V: torch.Tensor  # [V] BAN_BIAS at banned ids, 0 elsewhere

    def __init__(
        self,
        model: nn.Module,
        assets: ModelAssets,
        temperature: float,
        layout: str,
        attention: str = "auto",
    ) -> None:
        """Wrap `model`. Logits are divided by `temperature`, the sampling temperature.

        `layout` is learner.layout, `attention` learner.attention. Raises ConfigError for an
        attention that can't run here.
        """
        super().__init__()
        self.model = model
        self._family = assets.family
        self._temperature = temperature
        bias = torch.zeros(self.model.get_input_embeddings().num_embeddings)
        bias[list(assets.banned_ids)] = BAN_BIAS
        # On its device from the start: DeepSpeed moves no buffer of a model that zero.Init sharded.
        self.register_buffer("bias_V", bias.to(distributed.device()), persistent=False)
        LogprobHead.adopt(self.model.lm_head)
        self._blank = _blank_image(assets)
        self.layout: Layout[Any]
        if layout == "shared_prefix":
            device, dtype = distributed.device(), self.model.dtype
            form = choose_form(attention, device, dtype, head_width(self.model))
            self.layout = SharedPrefixLayout(model, form, assets.family.delta_nets(model))
        else:
            self.layout = PaddedLayout(assets.image_token_id, assets.tokenizer.pad_token_id or 0)

    def forward(
        self,
        rollouts: Sequence[Rollout],
        objective: ChunkObjective | None = None,
        *,
        by_token: bool = True,
    ) -> PolicyOutput:
        """Return log-probs [N] of all response tokens of `rollouts`, in their order.

        With an `objective` the loss is computed too. If it is a sum over tokens (`by_token`), its
        gradient is computed while the logits exist; otherwise they are computed a second time.
        """
        device = self.bias_V.device
        batch = self.layout.collate(rollouts, device)
        vision = self._encode_images(batch.pixel_values, batch.image_grid_thw, device)
        images = None if batch.pixel_values is None else {"image": vision}
        with self._joined(vision if images is None else None):
            hidden = self.layout.hidden_states(self.model.model, batch, images)
        return self._score(hidden, batch.targets_N, objective, by_token)

    @contextmanager
    def _joined(self, vision: Any) -> Iterator[None]:
        """Add 0 times the tower's output, unless it is None, to the embeddings that are made below.

        As with pictures, the text layers' input then depends on the tower. Where the text model
        is frozen but for adapters, only such an input makes ZeRO-3 gather the first layer's frozen
        weights in the backward pass; ranks that differ in it wait for each other for ever.
        """
        if vision is None:
            yield
            return
        nothing = 0.0 * self._family.sum_features(vision)
        hook = self.model.get_input_embeddings().register_forward_hook(
            lambda module, arguments, embedded: embedded + nothing.to(embedded.dtype)
        )
        try:
            yield
        finally:
            hook.remove()

    def _score(
        self,
        hidden_ND: torch.Tensor,
        targets_N: torch.Tensor,
        objective: ChunkObjective | None,
        by_token: bool,
    ) -> PolicyOutput:
        head = self.model.lm_head
        if objective is None or not by_token:
            out = logprobs.response_logprobs(
                head, hidden_ND, targets_N, self.bias_V, self._temperature
            )
            all_tokens = slice(0, len(targets_N))
            return PolicyOutput(out, objective(out, all_tokens) if objective else None)
        chunks: list[Surrogate] = []

        def chunk_loss(out: ResponseLogprobs, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.enable_grad():
                logprobs_C = out.logprobs_N.detach().requires_grad_()
                surrogate = objective(ResponseLogprobs(logprobs_C, out.entropy_N), chunk)
                (grad_C,) = torch.autograd.grad(surrogate.loss, logprobs_C)
            chunks.append(surrogate._replace(loss=surrogate.loss.detach()))
            return chunks[-1].loss, grad_C

        loss, out = logprobs.fused_loss(
            head, hidden_ND, targets_N, self.bias_V, self._temperature, chunk_loss
        )
        return PolicyOutput(out, concatenate(chunks)._replace(loss=loss))

    def _encode_images(
        self, pixels: torch.Tensor | None, grid: torch.Tensor | None, device: torch.device
    ) -> Any:
        """Always run the vision tower, and first: on a blank image if the batch has none.

        A rank whose micro-batch has only text must take part in the collectives of the tower's
        parameters, mergers and deepstack included, in the same order as the others, forward and
        backward (EasyR1 #468, transformers #37186).
        """
        if pixels is None or grid is None:
            pixels, grid = (x.to(device) for x in self._blank)
        return self._family.encode_images(self.model.model, pixels, grid)


def head_width(model: Any) -> int:
    """Return the width of the attention heads of a model's text layers, some of which have none."""
    layers = model.model.language_model.layers
    return int(next(layer.self_attn.head_dim for layer in layers if hasattr(layer, "self_attn")))


def _blank_image(assets: ModelAssets) -> tuple[torch.Tensor, torch.Tensor]:
    from PIL import Image

    side = assets.factor
    out = assets.processor.image_processor(
        images=[Image.new("RGB", (side, side), "white")], do_resize=False, return_tensors="pt"
    )
    return out["pixel_values"], out["image_grid_thw"]
