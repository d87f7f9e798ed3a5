"""A tiny Qwen3-VL from scratch: `sapo-vl init-tiny OUT`.

A real `Qwen3VLForConditionalGeneration` of about 1.1 M parameters with its processor, a small
byte-level BPE tokenizer with Qwen's special tokens, and a chat template, saved as a Hugging Face
folder that transformers and vLLM load. The main job trains it on machines without a GPU.

Two defaults of the large models are changed, because so small a model would not learn within
minutes otherwise: the initialization (std 0.06 instead of 0.02; vision position embeddings of unit
variance) and the pixel normalization (near-white drawings: mean 0.97, std 0.35).
Left out: video (the processor requires the object but never calls it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sapo_vl.errors import DataError
from sapo_vl.model.families import family_of
from sapo_vl.runs.files import atomic_write, write_json

if TYPE_CHECKING:
    from transformers import (
        PretrainedConfig,
        PreTrainedTokenizerFast,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
    )

IMAGE_SIDE = 64  # pixels of the procedural pictures; 16 image tokens at patch 8, merge 2
VOCABULARY = 400  # byte-level BPE entries before the special tokens
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
THINK_TOKENS = ("<think>", "</think>")  # one token each, but not special: decoded as text
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "<|im_end|>{{ '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "initializer_range": 0.06,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
    "tie_word_embeddings": True,
}
EXPERTS: dict[str, Any] = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 96,
    "num_heads": 4,
    "intermediate_size": 192,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
    "num_position_embeddings": (IMAGE_SIDE // 8) ** 2,
    "deepstack_visual_indexes": [0],
    "initializer_range": 0.06,
}


def build(out: Path, *, corpus: Iterable[str], seed: int, experts: int = 0) -> None:
    """Write the model folder to `out`, atomically. Raises DataError when `out` exists.

    Args:
        out: the folder, with a parent that is created if missing.
        corpus: texts that the tokenizer is trained on.
        seed: of the weights.
        experts: above 0, the text layers are a mixture of that many experts, two of them active
            (Qwen3-VL-MoE).
    """
    if out.exists():
        raise DataError(f"{out} exists already; remove it or name another folder")
    processor = _processor(corpus)
    torch.manual_seed(seed)
    model = _model(len(processor.tokenizer), processor.tokenizer, experts)
    layout = family_of(model.config.model_type).to_checkpoint_layout
    state = {name: layout(name, tensor) for name, tensor in model.state_dict().items()}
    with atomic_write(out) as partial:
        model.save_pretrained(partial, state_dict=state, save_original_format=False)
        processor.save_pretrained(partial)
        processor.image_processor.save_pretrained(partial)
        processor.video_processor.save_pretrained(partial)
        _for_older_readers(partial)


def _for_older_readers(folder: Path) -> None:
    """Add what transformers 4.57 reads under other names than 5 writes them."""
    path = folder / "tokenizer_config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["additional_special_tokens"] = tree.pop("extra_special_tokens")
    tree["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, tree)
    path = folder / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    rope = dict(TEXT["rope_parameters"])
    tree["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    write_json(path, tree)


def _processor(corpus: Iterable[str]) -> Qwen3VLProcessor:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[^\s\d]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=False,
        ),
    )
    bpe.add_tokens(list(THINK_TOKENS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    pixels = {
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.97] * 3,
        "image_std": [0.35] * 3,
        "size": {"shortest_edge": 256, "longest_edge": 262_144},
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(do_resize=False, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(do_resize=False, **pixels),
        chat_template=CHAT_TEMPLATE,
    )


def _model(
    vocabulary: int, tokenizer: PreTrainedTokenizerFast, experts: int
) -> Qwen3VLForConditionalGeneration:
    from transformers import AutoModelForImageTextToText, GenerationConfig

    model = AutoModelForImageTextToText.from_config(
        _config(vocabulary, tokenizer, experts), dtype=torch.float32
    )
    with torch.no_grad():
        nn.init.normal_(model.model.visual.patch_embed.proj.weight, std=0.06)
        nn.init.normal_(model.model.visual.pos_embed.weight, std=1.0)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def _config(vocabulary: int, tokenizer: PreTrainedTokenizerFast, experts: int) -> PretrainedConfig:
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    token_id: Any = tokenizer.convert_tokens_to_ids
    text = TEXT | {
        "vocab_size": vocabulary,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config_class = Qwen3VLMoeConfig if experts else Qwen3VLConfig
    return config_class(
        text_config=text | EXPERTS | {"num_experts": experts} if experts else text,
        vision_config=VISION,
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
