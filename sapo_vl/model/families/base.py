"""The interface of a model family: what the rest of the toolkit may not assume about a model.

Legend: L tokens of a prompt, K patches of all pictures, M pictures, S visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from sapo_vl.model.families.tiny_shape import TinyShape

Component = Literal["vision", "merger", "language"]
"""Vision encoder; projection of its output to the text model's width; text model and head."""


class Family(Protocol):
    """Stateless: methods take the transformers config or module that they describe."""

    name: str
    """For messages, such as `Qwen3-VL`."""

    vision_tokens: Mapping[str, str]
    """Special tokens that stand for pictures or videos, by the config's key of their id.

    A response must not contain them: a forward pass over it would look for a picture. Their logits
    get BAN_BIAS. Tokens that the model reads like any word are not among them.
    """

    tiny: TinyShape
    """A random model of the family, for tests and for training without a GPU."""

    def check(self, config: Any, image_processor: Any) -> None:
        """Raise DataError for a model of this family that cannot be trained, and say why."""
        ...

    def image_factor(self, config: Any) -> int:
        """Return the side of one visual token in pixels; picture sides are multiples of it."""
        ...

    def visual_tokens(self, grid_thw: Sequence[int], config: Any) -> int:
        """Return the number of image tokens of a picture with (time, height, width) patches."""
        ...

    def prompt_positions(
        self, expanded_ids: Sequence[int], grids: Sequence[Sequence[int]], config: Any
    ) -> tuple[Tensor, int]:
        """Return a prompt's position ids [3, L] and the position of a response's first token.

        Args:
            expanded_ids: [L] token ids, one image token per visual token.
            grids: [M, 3] patches of each picture in time, height and width.
            config: the model's transformers config.
        """
        ...

    def component(self, parameter: str) -> Component:
        """Return the component that the parameter of this name belongs to."""
        ...

    def to_checkpoint_layout(self, name: str, tensor: Tensor) -> Tensor:
        """Convert a parameter from transformers' module layout to that of published checkpoints.

        vLLM loads the latter. The conversion must be its own inverse (a transposition or nothing),
        because the same function loads streamed weights back into a transformers module.
        """
        ...

    def patch_embedding(self, model: Any) -> nn.Module:
        """Return the submodule whose `proj` embeds patches (a Conv3d with stride = kernel)."""
        ...

    def expert_blocks(self, model: Any) -> list[nn.Module]:
        """Return the submodules in which a router hands tokens to experts, one per such layer."""
        ...

    def delta_nets(self, model: Any) -> list[nn.Module]:
        """Return the gated delta nets among the text layers, whose state runs along a sequence.

        learner/gated_delta.py makes them start each response from its prompt's state. Empty for a
        family whose text layers are attention alone.
        """
        ...

    def encode_images(self, base: Any, pixel_values: Tensor, grid_thw: Tensor) -> Any:
        """Run the vision tower on M pictures.

        Args:
            base: the transformers model without its head (`model.model`).
            pixel_values: [K, channels * temporal * patch^2].
            grid_thw: [M, 3].

        Returns:
            What the base model's forward accepts as `mm_encoder_outputs={"image": ..}`.
        """
        ...

    def sum_features(self, features: Any) -> Tensor:
        """Return the float32 sum of all that `encode_images` returned, deepstack included.

        A text-only micro-batch adds 0 times this sum to its loss, so that every rank takes part in
        the backward pass of every vision parameter.
        """
        ...

    def processor_kwargs(self, min_pixels: int, max_pixels: int) -> dict[str, Any]:
        """Return vLLM's `mm_processor_kwargs` for pictures that are already resized."""
        ...

    def engine_options(self, config: Any, *, on_gpu: bool) -> dict[str, Any]:
        """Return vLLM's engine arguments that models of this family need.

        They replace those that every model gets, `dtype` (model.dtype) included. Raises DataError
        for a model that vLLM has no kernels for.
        """
        ...
