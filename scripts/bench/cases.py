"""Inputs of the learner benchmark: batch shapes, small models, and synthetic rollouts.

The Qwen3-VL has random weights, 6 text layers of width 256 (an eighth of Qwen3-VL-2B's) and a
vision tower of depth 4 with 3 deepstack mergers. The tower is 256 wide by default; a visual token
then costs the tower 3.8 times what it costs the text layers. At width 128 (an eighth again) both
cost the same, as in Qwen3-VL-2B itself (4B and 8B: less). The narrower the tower, the less there is
to share. The Qwen3.5 of the hybrid cases has the same widths, no deepstack mergers, and 4 text
layers in the published order: three gated delta nets, whose values' heads of 128 are together as
wide as the model, as in Qwen3.5-2B, then one layer of attention.

Prompts are one noise image and random text; responses are random ids whose lengths are spaced
evenly from 2 * mean - longest to longest.

Legend: G responses of a group, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sapo_vl.model.assets import ModelAssets
from sapo_vl.schema import Prompt, Rollout, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPECIAL_IDS = 32
"""Ids below this are the tokenizer's special tokens; random text has none of them."""

REAL_VOCABULARY = 151_936


@dataclass(frozen=True, slots=True)
class Case:
    """One batch shape and its targets, as ratios of TRL's time and memory to ours."""

    name: str
    group: int  # G
    image: int  # visual tokens of the image, a square number
    prompt: int  # tokens of the prompt, visual tokens included
    mean: int  # mean tokens of a response
    longest: int  # tokens of the longest response
    vocabulary: int = 512
    prompts: int = 2  # groups in the batch
    family: str = "qwen3_vl"  # of the model
    least: float | None = None  # required time ratio
    aim: float | None = None  # time ratio aimed at
    least_memory: float | None = None  # required peak memory ratio

    def lengths(self) -> list[int]:
        """Return the G response lengths."""
        shortest = 2 * self.mean - self.longest
        return np.linspace(shortest, self.longest, self.group).round().astype(int).tolist()


CASES = {
    case.name: case
    for case in (
        Case("g4", 4, 64, 107, 155, 247, least=2.2),
        Case("g8", 8, 64, 104, 160, 259, least=2.8, aim=3.0),
        Case("g16", 16, 64, 100, 155, 255, prompts=1, least=2.8),
        Case("g4-256", 4, 256, 300, 155, 252, least=2.9),
        Case("g8-256", 8, 256, 298, 153, 254, least=4.7, aim=5.0, least_memory=4.0),
        Case("g16-256", 16, 256, 294, 155, 235, prompts=1, least=5.8, aim=6.5),
        Case("g8-short", 8, 256, 300, 40, 72, prompts=1, least=6.2),
        Case("g8-long", 8, 64, 102, 568, 769, prompts=1, least=1.9),
        Case("g8-real", 8, 64, 102, 162, 230, REAL_VOCABULARY, 1, 5.2, 6.0, 7.0),
        Case("g8-256-real", 8, 256, 294, 162, 230, REAL_VOCABULARY, 1),
        Case("hybrid-g8", 8, 64, 104, 160, 259, family="qwen3_5"),
        Case("hybrid-g8-256", 8, 256, 298, 153, 254, family="qwen3_5"),
        Case("hybrid-g16-256", 16, 256, 294, 155, 235, prompts=1, family="qwen3_5"),
    )
}
"""The shapes by name. `least` is the ratio that a prototype of this learner reached."""


ROPE = {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_interleaved": True}

OWN: dict[str, dict[str, dict[str, Any]]] = {
    "qwen3_vl": {
        "text": {
            "num_hidden_layers": 6,
            "rope_parameters": ROPE | {"mrope_section": [12, 10, 10]},
        },
        "vision": {"deepstack_visual_indexes": [0, 1, 2]},
    },
    "qwen3_5": {
        "text": {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "rope_parameters": ROPE | {"partial_rotary_factor": 0.25, "mrope_section": [4, 2, 2]},
        },
        "vision": {},
    },
}
"""What the models of the families don't share, by model_type."""


def build_model(
    assets: ModelAssets, vocabulary: int, vision_width: int, device: torch.device
) -> PreTrainedModel:
    """Return the randomly initialised model of the family of `assets`, in training mode.

    It has the special ids of `assets`. It is float32 on a CPU, and bfloat16 on a GPU with the same
    values, rounded.
    """
    import transformers
    from transformers.models.auto import AutoModelForImageTextToText

    known = assets.config
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "eos_token_id": known.text_config.eos_token_id,
        "pad_token_id": known.text_config.pad_token_id,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 4,
        "hidden_size": vision_width,
        "intermediate_size": 4 * vision_width,
        "num_heads": 4,
        "patch_size": known.vision_config.patch_size,
        "spatial_merge_size": known.vision_config.spatial_merge_size,
        "temporal_patch_size": known.vision_config.temporal_patch_size,
        "out_hidden_size": 256,
        "num_position_embeddings": 32**2,
    }
    own = OWN[known.model_type]
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = getattr(transformers, assets.family.tiny.config)(
        text_config=text | own["text"],
        vision_config=vision | own["vision"],
        tie_word_embeddings=True,
        **{name: getattr(known, name) for name in ids},
    )
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.config.use_cache = False
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return model.to(device, dtype).train()


def no_bans(assets: ModelAssets) -> ModelAssets:
    """Return the assets without banned ids: TRL does not bias logits, and losses must agree."""
    return dataclasses.replace(assets, banned_ids=())


def build_rollouts(case: Case, assets: ModelAssets, seed: int = 0) -> list[Rollout]:
    """Return the batch: advantages of both signs, no old log-probs."""
    random = np.random.default_rng(seed)
    rollouts = []
    for number in range(case.prompts):
        prompt = _prompt(case, assets, random, f"noise-{number}")
        advantages = random.normal(size=case.group)
        advantages = (advantages - advantages.mean()) / advantages.std()
        for length, advantage in zip(case.lengths(), advantages, strict=True):
            token_ids = _text(random, length)
            rollouts.append(Rollout(prompt, token_ids, advantage=float(advantage)))
    return rollouts


def _text(random: np.random.Generator, length: int) -> list[int]:
    return random.integers(SPECIAL_IDS, 400, length).tolist()


def _prompt(case: Case, assets: ModelAssets, random: np.random.Generator, name: str) -> Prompt:
    vision = assets.config.vision_config
    merge = int(vision.spatial_merge_size)
    side = int(case.image**0.5) * merge
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.from_numpy(random.normal(size=(side * side, width)).astype(np.float32))
    before = case.prompt - case.image - 2
    markers = [assets.config.vision_start_token_id, assets.config.vision_end_token_id]
    head, tail = _text(random, before // 2), _text(random, before - before // 2)
    expanded = [
        *head, markers[0], *[assets.image_token_id] * case.image, markers[1], *tail
    ]  # fmt: skip
    grid = [1, side, side]
    positions, next_position = assets.family.prompt_positions(expanded, [grid], assets.config)
    return Prompt(
        sample=Sample(name, "noise", "none", "", (), ""),
        token_ids=[],
        expanded_ids=expanded,
        images=[],
        pixel_values=pixels,
        grid_thw=torch.tensor([grid]),
        position_ids=positions,
        next_position=next_position,
    )
