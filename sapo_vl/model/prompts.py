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

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sapo_vl.config.sections import DataConfig
from sapo_vl.data.images import Size, open_image, resize, target_size, visual_tokens
from sapo_vl.errors import DataError
from sapo_vl.model.assets import ModelAssets
from sapo_vl.model.chat_template import TURN, ChatTemplate, Content
from sapo_vl.model.whole_picture import whole_size
from sapo_vl.schema import IMAGE_MARK, Prompt, Sample

BATCH_PIXELS = 2**19
"""Pixels that a call of the image processor takes: small pictures share its fixed cost, and large
ones together take twice the time of each alone, in fresh memory of hundreds of megabytes."""


class Patches(NamedTuple):
    """What the image processor makes of one picture."""

    values: Tensor  # [k, channels * temporal * patch^2]
    grid_thw: Tensor  # [3] patches in time, height, width; their product is k


class PromptCheck(NamedTuple):
    """What a record's text and picture headers say about its prompt."""

    length: int  # tokens of the expanded prompt; 0 where there is a fault
    fault: str = ""  # why the record can't be a prompt; empty where it can


class Rendered(NamedTuple):
    """The prompts of those samples that could be rendered, and why others could not."""

    prompts: list[Prompt]
    faults: dict[int, DataError]  # index of the sample -> its fault


class PromptRenderer:
    """Renders samples with a model's chat template, tokenizer and image processor."""

    def __init__(self, assets: ModelAssets, data: DataConfig, *, blank: bool = False) -> None:
        """`blank` replaces each picture by a white one of the same size (a control experiment).

        Raises DataError for a chat template that is missing or loses the problem.
        """
        from qwen_vl_utils import smart_resize  # imports torchvision

        self._assets = assets
        self.template = ChatTemplate(assets)
        self._forbidden = _control_tokens(assets)
        self._data = data
        self._blank = blank
        self._smart_resize = smart_resize
        self._tokenizing = threading.Lock()

    def render(self, samples: Sequence[Sample]) -> list[Prompt]:
        """Return one prompt per sample, in order. Raises DataError for a sample that can't be."""
        rendered = self.render_usable(samples)
        for error in rendered.faults.values():
            raise error
        return rendered.prompts

    def render_usable(self, samples: Sequence[Sample]) -> Rendered:
        """Return the prompts of the samples that can be rendered, in order, and the others' faults.

        A fault is a picture that can't be decoded, or a text that doesn't fit its pictures.
        """
        parts: list[tuple[Sample, str, list[int], list[Image.Image]]] = []
        faults: dict[int, DataError] = {}
        for i, sample in enumerate(samples):
            try:
                text = self._text(sample)
                (token_ids,) = self._encode([text])
                self._check_ids(sample, token_ids)
                pictures = [self._picture(sample, data) for data in sample.images]
            except DataError as error:
                faults[i] = error
            else:
                parts.append((sample, text, token_ids, pictures))
        patches = iter(self._patches([p for *_, pictures in parts for p in pictures]))
        prompts = [
            self._prompt(sample, text, token_ids, pictures, [next(patches) for _ in pictures])
            for sample, text, token_ids, pictures in parts
        ]
        return Rendered(prompts, faults)

    def check(self, samples: Sequence[Sample]) -> list[PromptCheck]:
        """Return each sample's prompt length or fault, from texts and image headers.

        A picture is decoded only where its file seems to be cut off.
        """
        texts: dict[int, str] = {}
        visual: dict[int, int] = {}
        checks = dict[int, PromptCheck]()
        for i, sample in enumerate(samples):
            try:
                sizes = [self._target(sample, whole_size(data)) for data in sample.images]
                texts[i] = self._text(sample)
            except DataError as error:
                checks[i] = _faulty(sample, error)
            else:
                visual[i] = sum(visual_tokens(size, self._assets.factor) - 1 for size in sizes)
        for i, token_ids in zip(texts, self._encode(list(texts.values())), strict=True):
            try:
                self._check_ids(samples[i], token_ids)
            except DataError as error:
                checks[i] = _faulty(samples[i], error)
            else:
                checks[i] = PromptCheck(len(token_ids) + visual[i])
        return [checks[i] for i in range(len(samples))]

    def trainable_solutions(self, solutions: Sequence[str | None]) -> list[int]:
        """Return the positions of the solutions that a model can be trained on.

        An empty one teaches nothing, and a vision token in one is banned from every response.
        """
        banned = self._assets.family.vision_tokens.values()
        return [
            i
            for i, text in enumerate(solutions)
            if text and text.strip() and not any(token in text for token in banned)
        ]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text; in one call, which is twice as fast as one by one."""
        if not texts:
            return []
        with self._tokenizing:  # a fast tokenizer raises when threads share it
            return self._assets.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _text(self, sample: Sample) -> str:
        """Return a prompt's text. Raises DataError where it can't hold the problem."""
        where = f"record {sample.id}"
        found = next((token for token in self._forbidden if token in sample.problem), None)
        if found is not None:
            raise DataError(
                f"{where}: the problem's text holds the model's control token {found}; remove it "
                f"(a picture's place is {IMAGE_MARK})"
            )
        pieces = sample.problem.split(IMAGE_MARK)
        pieces[-1] += self._data.instruction
        content: Content = []
        for i, piece in enumerate(pieces):
            if i > 0:
                content.append({"type": "image"})
            if piece:
                content.append({"type": "text", "text": piece})
        text = self.template.render(content)
        if any(piece.strip() not in text for piece in pieces):
            raise DataError(f"{where}: the chat template leaves out words of the problem")
        return text

    def _check_ids(self, sample: Sample, token_ids: list[int]) -> None:
        """Raise DataError where a prompt's ids don't fit the pictures or the embedding."""
        where = f"record {sample.id}"
        count = token_ids.count(self._assets.image_token_id)
        if count != len(sample.images):
            raise DataError(
                f"{where}: the text has {count} places for pictures and the record "
                f"{len(sample.images)} pictures"
            )
        rows = int(self._assets.config.text_config.vocab_size)
        if max(token_ids) >= rows:
            raise DataError(
                f"{where}: the tokenizer gives the id {max(token_ids)} and the model has {rows} "
                "embeddings"
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
        """Return the patches of each picture; small pictures share a call of the processor."""
        found: list[Patches] = []
        for batch in _batches(pictures):
            out = self._assets.processor.image_processor(
                images=batch, do_resize=False, return_tensors="pt"
            )
            grids = out["image_grid_thw"]
            values = torch.split(out["pixel_values"], grids.prod(-1).tolist())
            found += [Patches(*pair) for pair in zip(values, grids, strict=True)]
        return found

    def _prompt(
        self,
        sample: Sample,
        text: str,
        token_ids: list[int],
        images: list[Image.Image],
        patches: list[Patches],
    ) -> Prompt:
        family, config = self._assets.family, self._assets.config
        image_id = self._assets.image_token_id
        grids = [p.grid_thw.tolist() for p in patches]
        expanded = expand(token_ids, image_id, [family.visual_tokens(g, config) for g in grids])
        positions, next_position = family.prompt_positions(expanded, grids, config)
        return Prompt(
            sample=sample,
            token_ids=token_ids,
            expanded_ids=expanded,
            images=images,
            pixel_values=_concatenated([p.values for p in patches]),
            grid_thw=torch.stack([p.grid_thw for p in patches]) if patches else None,
            position_ids=positions,
            next_position=next_position,
            opening=self.template.opening(text),
        )


def _control_tokens(assets: ModelAssets) -> tuple[str, ...]:
    """Return the tokens that a problem's text must not hold: vision tokens, turns, end tokens."""
    ends = assets.tokenizer.convert_ids_to_tokens(list(assets.eos_ids))
    return (*assets.family.vision_tokens.values(), TURN, *(token for token in ends if token))


def _batches(pictures: list[Image.Image]) -> Iterator[list[Image.Image]]:
    """Yield the pictures in order, together up to BATCH_PIXELS or one at a time."""
    batch: list[Image.Image] = []
    pixels = 0
    for picture in pictures:
        size = picture.width * picture.height
        if batch and pixels + size > BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
        batch.append(picture)
        pixels += size
    if batch:
        yield batch


def _concatenated(values: list[Tensor]) -> Tensor | None:
    """Return the patches of a prompt's pictures, those of a single one without a copy."""
    return (values[0] if len(values) == 1 else torch.cat(values)) if values else None


def _faulty(sample: Sample, error: DataError) -> PromptCheck:
    return PromptCheck(0, str(error).removeprefix(f"record {sample.id}: "))


def expand(token_ids: Sequence[int], image_id: int, counts: Sequence[int]) -> list[int]:
    """Repeat the i-th image token counts[i] times. Lengths must agree (asserted)."""
    remaining = iter(counts)
    out: list[int] = []
    for token in token_ids:
        out.extend([token] * (next(remaining) if token == image_id else 1))
    assert next(remaining, None) is None, (counts, token_ids)
    return out
