"""Model folders with random weights: a published shape, or four layers at the real vocabulary.

`four-layers` has what a tiny model lacks and what breaks on GPUs: 151,936 ids, so that the head
works in many chunks; heads of width 128, four query heads to a key-value head; an output head of
its own, as 8B and 30B-A3B have; a deepstack merger. It is 64 wide, so that it runs in seconds on a
CPU too: 20 M parameters, nearly all of them embedding and head.

The tokenizer is the tiny model's: its ids are the first few hundred of the vocabulary.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sapo_vl.data import synthetic
from sapo_vl.model import shapes, tiny
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import IMAGE_MARK, Prompt, Rollout, Sample

FOUR_LAYERS = "four-layers"

NAMES = (FOUR_LAYERS, *shapes.SHAPES)
"""What `build` can make."""

TEXT: dict[str, Any] = shapes.TEXT_3 | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "initializer_range": 0.06,  # with 0.02 so narrow a model's log-probs hardly differ by token
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 128,
    "num_heads": 2,
    "intermediate_size": 256,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
    "initializer_range": 0.06,
}

TOKENIZER_TEXTS = 400
FIRST_TEXT_ID = 32  # below are the tokenizer's special ids


def configuration(name: str, tokenizer: Any) -> Any:
    """Return the transformers config of one of NAMES, with the special ids of `tokenizer`."""
    from transformers import Qwen3VLConfig

    if name == FOUR_LAYERS:
        config = Qwen3VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=False)
        config.text_config.tie_word_embeddings = False
    else:
        config = shapes.configuration(name)
    for key, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config.text_config.pad_token_id = tokenizer.pad_token_id
    return config


def build(out: Path, name: str, device: torch.device) -> ModelAssets:
    """Write one of NAMES to the folder `out` in bfloat16, made on `device`, and open it."""
    from transformers import AutoModelForImageTextToText, GenerationConfig

    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "tiny"
        tiny.build(small, corpus=synthetic.corpus(0, TOKENIZER_TEXTS), seed=0)
        processor = open_assets(small).processor
    tokenizer = processor.tokenizer
    config = configuration(name, tokenizer)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(out)
    for part in (processor.image_processor, processor.video_processor):
        part.patch_size = config.vision_config.patch_size
        part.merge_size = config.vision_config.spatial_merge_size
    processor.save_pretrained(out)
    processor.image_processor.save_pretrained(out)
    processor.video_processor.save_pretrained(out)
    return open_assets(out)


def prompts(renderer: PromptRenderer, pictures: tuple[int, ...], side: int) -> list[Prompt]:
    """Return rendered prompts with so many noise pictures each, `side` pixels high and wide."""
    random = np.random.default_rng(0)
    samples = []
    for number, count in enumerate(pictures):
        images = tuple(_noise(random, side) for _ in range(count))
        problem = IMAGE_MARK * count + "What is the sum? " * (2 + number)
        samples.append(Sample(f"noise-{number}", "noise", "sum", problem, images, "7"))
    return renderer.render(samples)


def rollouts(prompts: list[Prompt], vocabulary: int, responses: int, longest: int) -> list[Rollout]:
    """Return responses of 1 to `longest` random ids of the whole vocabulary, on policy."""
    random = np.random.default_rng(1)
    made = []
    for prompt in prompts:
        for number in range(responses):
            length = int(random.integers(1, longest + 1))
            ids = random.integers(FIRST_TEXT_ID, vocabulary, length).tolist()
            mu = np.full(length, -np.log(vocabulary), np.float32)
            sign = 1.0 if number % 2 else -1.0
            made.append(Rollout(prompt, ids, advantage=sign, generator_logprobs=mu))
    return made


def _noise(random: np.random.Generator, side: int) -> bytes:
    from io import BytesIO

    pixels = random.integers(0, 256, (side, side, 3)).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
