"""Samples to prompts: one rendering, one resize, one expansion, used by every stage.

The generator gets `token_ids` (one image token per image) with `images`; the learner gets
`expanded_ids` (one image token per visual token) with `pixel_values`. Both come from here, and the
generator compares the ids it used with `expanded_ids`, so that training sees what was sampled.

Legend: L tokens of a prompt, K patches of all its images, M its images.
Left out: video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sapo_vl.config import DataConfig
from sapo_vl.data import images as image_tools
from sapo_vl.errors import DataError
from sapo_vl.model.assets import ModelAssets
from sapo_vl.schema import IMAGE_MARK, Prompt, Sample

if TYPE_CHECKING:
    from PIL.Image import Image


class PromptRenderer:
    """Renders samples with one model's chat template, tokenizer and image processor."""

    def __init__(self, assets: ModelAssets, data: DataConfig, *, blank: bool = False) -> None:
        """`blank` replaces each picture by a white one of the same size (a control experiment)."""
        self._assets = assets
        self._data = data
        self._blank = blank
        self._merge = int(assets.config.vision_config.spatial_merge_size)

    def render(self, samples: Sequence[Sample]) -> list[Prompt]:
        """Return a prompt per sample, in order. Raises DataError for an unreadable image."""
        pictures = [[self._picture(s, data) for data in s.images] for s in samples]
        pixels = self._pixels([p for ps in pictures for p in ps])
        prompts, first = [], 0
        for sample, own in zip(samples, pictures, strict=True):
            prompts.append(self._prompt(sample, own, pixels[first : first + len(own)]))
            first += len(own)
        return prompts

    def lengths(self, samples: Iterable[Sample]) -> list[int]:
        """Return the expanded prompt length of each sample in tokens, from image headers only."""
        texts, visual = [], []
        for sample in samples:
            texts.append(self._text(sample))
            sizes = [self._target(sample, image_tools.header_size(data)) for data in sample.images]
            visual.append(
                sum(image_tools.visual_tokens(size, self._assets.factor) - 1 for size in sizes)
            )
        if not texts:
            return []
        ids = self._assets.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [len(i) + v for i, v in zip(ids, visual, strict=True)]

    def _text(self, sample: Sample) -> str:
        pieces = sample.problem.split(IMAGE_MARK)
        content: list[dict[str, str]] = []
        for i, piece in enumerate(pieces):
            if i > 0:
                content.append({"type": "image"})
            last = i == len(pieces) - 1
            text = piece + (self._data.instruction if last else "")
            if text:
                content.append({"type": "text", "text": text})
        return self._assets.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def _target(self, sample: Sample, size: image_tools.Size) -> image_tools.Size:
        try:
            return image_tools.target_size(
                size.width,
                size.height,
                factor=self._assets.factor,
                min_pixels=self._data.min_pixels,
                max_pixels=self._data.max_pixels,
            )
        except DataError as error:
            raise DataError(f"record {sample.id}: {error}") from error

    def _picture(self, sample: Sample, data: bytes) -> Image:
        try:
            image = image_tools.open_image(data)
        except DataError as error:
            raise DataError(f"record {sample.id}: {error}") from error
        size = self._target(sample, image_tools.Size(image.width, image.height))
        if self._blank:
            return _white(size)
        return image_tools.resize(image, size)

    def _pixels(self, pictures: list[Image]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (patches [k, D], grid [3]) of each picture, all in one call of the processor."""
        if not pictures:
            return []
        out = self._assets.processor.image_processor(
            images=pictures, do_resize=False, return_tensors="pt"
        )
        grids = out["image_grid_thw"]
        values = torch.split(out["pixel_values"], grids.prod(-1).tolist())
        return list(zip(values, grids, strict=True))

    def _prompt(
        self, sample: Sample, images: list[Image], pixels: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> Prompt:
        tokenizer: Any = self._assets.tokenizer
        token_ids = tokenizer(self._text(sample), add_special_tokens=False)["input_ids"]
        image_id = self._assets.image_token_id
        if token_ids.count(image_id) != len(images):
            raise DataError(
                f"record {sample.id}: the text holds {token_ids.count(image_id)} image tokens and "
                f"the record {len(images)} images; remove vision tokens from the problem's text"
            )
        grids = [grid.tolist() for _, grid in pixels]
        expanded = expand(token_ids, image_id, [t * h * w // self._merge**2 for t, h, w in grids])
        positions, following = mrope_positions(expanded, image_id, grids, self._merge)
        return Prompt(
            sample=sample,
            token_ids=token_ids,
            expanded_ids=expanded,
            images=images,
            pixel_values=torch.cat([values for values, _ in pixels]) if pixels else None,
            grid_thw=torch.stack([grid for _, grid in pixels]) if pixels else None,
            position_ids=positions,
            next_position=following,
        )


def _white(size: image_tools.Size) -> Image:
    from PIL import Image as pil

    return pil.new("RGB", (size.width, size.height), "white")


def expand(token_ids: Sequence[int], image_id: int, counts: Sequence[int]) -> list[int]:
    """Repeat the i-th image token counts[i] times. Lengths must agree (asserted)."""
    remaining = iter(counts)
    out: list[int] = []
    for token in token_ids:
        out.extend([token] * (next(remaining) if token == image_id else 1))
    assert next(remaining, None) is None, (counts, token_ids)
    return out


def mrope_positions(
    expanded_ids: Sequence[int], image_id: int, grids: Sequence[Sequence[int]], merge: int
) -> tuple[torch.Tensor, int]:
    """Return M-RoPE positions [3, L] of an expanded prompt and the position that follows it.

    Text counts up alike on the three axes. An image that starts at p has time p, height p..p+h-1
    and width p..p+w-1 (h, w after the merge), and the text behind it goes on at p + max(h, w), so
    that N image tokens advance the position by far less than N. Equal to transformers'
    `get_rope_index`.
    """
    parts, position, i, following = [], 0, 0, iter(grids)
    while i < len(expanded_ids):
        if expanded_ids[i] == image_id:
            t, h, w = next(following)
            h, w = h // merge, w // merge
            rows = torch.stack(
                torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
            )
            parts.append(rows.reshape(3, -1) + position)
            i, position = i + t * h * w, position + max(h, w)
        else:
            end = i
            while end < len(expanded_ids) and expanded_ids[end] != image_id:
                end += 1
            parts.append(torch.arange(position, position + end - i).expand(3, -1))
            i, position = end, position + end - i
    return torch.cat(parts, dim=1), position
