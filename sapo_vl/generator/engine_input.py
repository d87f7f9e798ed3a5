"""Rendered prompts as vLLM's processed inputs: pictures are processed once, by the renderer.

Given raw pictures, vLLM would process them a second time (100 ms per picture of 1,000 visual tokens
on one core) while the engine waits. It accepts processed inputs instead: expanded ids, patches in
the model's type, and the place of each picture in the ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sapo_vl.errors import DataError
from sapo_vl.schema import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from sapo_vl.model.assets import ModelAssets


@dataclass(frozen=True, slots=True)
class EnginePictures:
    """What an engine needs of a prompt's pictures."""

    values: Tensor  # [K, channels * temporal * patch^2] in the engine's type
    grid_thw: Tensor  # [M, 3] patches in time, height, width
    hashes: list[str]  # of the M pictures; the engine caches their embeddings by it


@dataclass(frozen=True, slots=True)
class ProcessedPrompt:
    """A prompt as it travels to the ranks that share an engine."""

    expanded_ids: list[int]
    pictures: EnginePictures | None  # None without pictures


class EngineInputs:
    """Makes the inputs of one vLLM engine."""

    def __init__(self, llm: Any, assets: ModelAssets) -> None:
        """`llm` is the vllm.LLM that the inputs are for."""
        self._renderer = llm.renderer
        self._dtype: torch.dtype = llm.model_config.dtype
        self._assets = assets
        self._compared = False

    def process(self, prompt: Prompt) -> ProcessedPrompt:
        """Return what the engine needs of `prompt`.

        vLLM processes the first prompt with pictures too, from its raw pictures, and both results
        must agree. Raises DataError when they don't, or when a prompt's ids and patches don't fit.
        """
        if prompt.pixel_values is None or prompt.grid_thw is None:
            return ProcessedPrompt(prompt.expanded_ids, None)
        family, config = self._assets.family, self._assets.config
        places = picture_places(prompt.expanded_ids, self._assets.image_token_id)
        visual = [family.visual_tokens(grid, config) for grid in prompt.grid_thw.tolist()]
        if [length for _, length in places] != visual:
            raise DataError(
                f"record {prompt.sample.id}: the pictures have {visual} visual tokens and the "
                f"prompt places for {[length for _, length in places]}"
            )
        values = prompt.pixel_values.to(self._dtype)
        hashes = [picture_hash(image) for image in prompt.images]
        processed = ProcessedPrompt(
            prompt.expanded_ids, EnginePictures(values, prompt.grid_thw, hashes)
        )
        if not self._compared:
            self._compare(prompt, self.engine_input(processed))
            self._compared = True
        return processed

    def engine_input(self, prompt: ProcessedPrompt) -> Any:
        """Return the dictionary that vLLM's engine takes."""
        from transformers import BatchFeature
        from vllm.inputs.engine import mm_input, tokens_input
        from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

        pictures = prompt.pictures
        if pictures is None:
            return tokens_input(prompt.expanded_ids)
        features = BatchFeature(
            {"pixel_values": pictures.values, "image_grid_thw": pictures.grid_thw}
        )
        fields = self._renderer.get_mm_processor()._get_mm_fields_config(features, {})
        places = picture_places(prompt.expanded_ids, self._assets.image_token_id)
        return mm_input(
            prompt_token_ids=prompt.expanded_ids,
            mm_kwargs=MultiModalKwargsItems.from_hf_inputs(features, fields),
            mm_hashes={"image": pictures.hashes},
            mm_placeholders={"image": [PlaceholderRange(*place) for place in places]},
        )

    def _compare(self, prompt: Prompt, ours: Any) -> None:
        (theirs,) = self._renderer.render_cmpl(
            [
                {
                    "prompt_token_ids": prompt.token_ids,
                    "multi_modal_data": {"image": prompt.images},
                }
            ]
        )
        where = f"record {prompt.sample.id}: vLLM"
        advice = (
            "the model folder's processor config disagrees with data.min_pixels and data.max_pixels"
        )
        if theirs["prompt_token_ids"] != prompt.expanded_ids:
            raise DataError(
                f"{where} expanded the prompt to {len(theirs['prompt_token_ids'])} tokens and the "
                f"processor to {len(prompt.expanded_ids)}; {advice}"
            )
        if theirs["mm_placeholders"] != ours["mm_placeholders"]:
            raise DataError(
                f"{where} places the pictures at {theirs['mm_placeholders']} and the processor at "
                f"{ours['mm_placeholders']}"
            )
        for other, own in zip(
            theirs["mm_kwargs"]["image"], ours["mm_kwargs"]["image"], strict=True
        ):
            if not torch.equal(other["pixel_values"].data, own["pixel_values"].data):
                raise DataError(f"{where} makes other patches of its pictures; {advice}")


def picture_hash(image: Image) -> str:
    """Return a digest of a picture's size and pixels."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def picture_places(ids: list[int], image_token: int) -> list[tuple[int, int]]:
    """Return (offset, length) of each run of `image_token`.

    Each run is one picture: vision end and start tokens lie between two of them.
    """
    places, offset = [], 0
    for token, run in groupby(ids):
        length = len(list(run))
        if token == image_token:
            places.append((offset, length))
        offset += length
    return places
