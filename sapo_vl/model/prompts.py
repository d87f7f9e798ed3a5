"""Rendering of samples to prompts, the same for training, rollouts and evaluation.

The generator gets `token_ids` (one image token per picture) with `images`; the learner gets
`expanded_ids` (one image token per visual token) with `pixel_values`. The generator compares the
ids that it used with `expanded_ids`, so training sees exactly what was sampled.

Pictures are decoded and scaled here (sapo_vl/data/images.py), not by the processor, so that both
sides get identical pixels. The size rule is qwen-vl-utils' `smart_resize`.

Legend: L tokens of a prompt, K patches of all its pictures, M its pictures.
Left out: video; references to pictures (a sample holds the bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sapo_vl.config import DataConfig
from sapo_vl.data.images import Size, header_size, open_image, resize, target_size, visual_tokens
from sapo_vl.errors import DataError
from sapo_vl.model.assets import ModelAssets
from sapo_vl.schema import IMAGE_MARK, Prompt, Sample


class Patches(NamedTuple):
    """What the image processor makes of one picture."""

    values: Tensor  # [k, channels * temporal * patch^2]
    grid_thw: Tensor  # [3] patches in time, height, width; their product is k


class PromptRenderer:
    """Renders samples with a model's chat template, tokenizer and image processor."""

    def __init__(self, assets: ModelAssets, data: DataConfig, *, blank: bool = False) -> None:
        """`blank` replaces each picture by a white one of the same size (a control experiment)."""
        from qwen_vl_utils import smart_resize  # imports torchvision

        self._assets = assets
        self._data = data
        self._blank = blank
        self._smart_resize = smart_resize

    def render(self, samples: Sequence[Sample]) -> list[Prompt]:
        """Return one prompt per sample, in order. Raises DataError for an unreadable picture."""
        pictures = [[self._picture(s, data) for data in s.images] for s in samples]
        patches = iter(self._patches([p for ps in pictures for p in ps]))
        return [
            self._prompt(sample, images, [next(patches) for _ in images])
            for sample, images in zip(samples, pictures, strict=True)
        ]

    def lengths(self, samples: Iterable[Sample]) -> list[int]:
        """Return each sample's expanded prompt length in tokens, from image headers only."""
        texts, visual = [], []
        for sample in samples:
            texts.append(self._text(sample))
            sizes = [self._target(sample, header_size(data)) for data in sample.images]
            visual.append(sum(visual_tokens(size, self._assets.factor) - 1 for size in sizes))
        if not texts:
            return []
        ids = self._assets.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [len(i) + v for i, v in zip(ids, visual, strict=True)]

    def _text(self, sample: Sample) -> str:
        pieces = sample.problem.split(IMAGE_MARK)
        pieces[-1] += self._data.instruction
        content: list[dict[str, str]] = []
        for i, piece in enumerate(pieces):
            if i > 0:
                content.append({"type": "image"})
            if piece:
                content.append({"type": "text", "text": piece})
        return self._assets.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def _target(self, sample: Sample, size: Size) -> Size:
        try:
            return target_size(
                *size,
                factor=self._assets.factor,
                min_pixels=self._data.min_pixels,
                max_pixels=self._data.max_pixels,
                rule=self._smart_resize,
            )
        except DataError as error:
            raise DataError(f"record {sample.id}: {error}") from error

    def _picture(self, sample: Sample, data: bytes) -> Image.Image:
        try:
            image = open_image(data)
        except DataError as error:
            raise DataError(f"record {sample.id}: {error}") from error
        size = self._target(sample, Size(image.width, image.height))
        if self._blank:
            return Image.new("RGB", size, "white")
        return resize(image, size)

    def _patches(self, pictures: list[Image.Image]) -> list[Patches]:
        """Return the patches of each picture, from one call of the image processor."""
        if not pictures:
            return []
        out = self._assets.processor.image_processor(
            images=pictures, do_resize=False, return_tensors="pt"
        )
        grids = out["image_grid_thw"]
        values = torch.split(out["pixel_values"], grids.prod(-1).tolist())
        return [Patches(*pair) for pair in zip(values, grids, strict=True)]

    def _prompt(self, sample: Sample, images: list[Image.Image], patches: list[Patches]) -> Prompt:
        family, config = self._assets.family, self._assets.config
        text = self._text(sample)
        token_ids = self._assets.tokenizer(text, add_special_tokens=False)["input_ids"]
        image_id = self._assets.image_token_id
        if token_ids.count(image_id) != len(images):
            raise DataError(
                f"record {sample.id}: the text holds {token_ids.count(image_id)} image tokens and "
                f"the record {len(images)} images; remove vision tokens from the problem's text"
            )
        grids = [p.grid_thw.tolist() for p in patches]
        expanded = expand(token_ids, image_id, [family.visual_tokens(g, config) for g in grids])
        positions, next_position = family.prompt_positions(expanded, grids, config)
        return Prompt(
            sample=sample,
            token_ids=token_ids,
            expanded_ids=expanded,
            images=images,
            pixel_values=torch.cat([p.values for p in patches]) if patches else None,
            grid_thw=torch.stack([p.grid_thw for p in patches]) if patches else None,
            position_ids=positions,
            next_position=next_position,
        )


def expand(token_ids: Sequence[int], image_id: int, counts: Sequence[int]) -> list[int]:
    """Repeat the i-th image token counts[i] times. Lengths must agree (asserted)."""
    remaining = iter(counts)
    out: list[int] = []
    for token in token_ids:
        out.extend([token] * (next(remaining) if token == image_id else 1))
    assert next(remaining, None) is None, (counts, token_ids)
    return out
