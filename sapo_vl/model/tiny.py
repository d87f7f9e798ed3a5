"""A tiny model of a family from scratch: `sapo-vl init-tiny OUT --family NAME`.

The family's real model class with about 1 M parameters, its processor, a small byte-level BPE
tokenizer with Qwen's special tokens, and a chat template, saved as a Hugging Face folder that
transformers and vLLM load. The main job trains the tiny Qwen3-VL on machines without a GPU.

Pictures are normalized as near-white drawings (mean 0.97, std 0.35), see families/tiny_shape.py.
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
from sapo_vl.model.families.base import Family
from sapo_vl.runs.files import atomic_write, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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


def build(out: Path, *, corpus: Iterable[str], seed: int, family: str = "qwen3_vl") -> None:
    """Write the model folder to `out`, atomically.

    Args:
        out: the folder, with a parent that is created if missing.
        corpus: texts that the tokenizer is trained on.
        seed: of the weights.
        family: a `model_type` in families.FAMILIES.

    Raises:
        DataError: `out` exists, or there is no such family.
    """
    described = family_of(family)
    if out.exists():
        raise DataError(f"{out} exists already; remove it or name another folder")
    processor = _processor(described, _tokenizer(corpus))
    torch.manual_seed(seed)
    model = _model(described, processor.tokenizer)
    layout = described.to_checkpoint_layout
    state = {name: layout(name, tensor) for name, tensor in model.state_dict().items()}
    with atomic_write(out) as partial:
        model.save_pretrained(partial, state_dict=state, save_original_format=False)
        processor.save_pretrained(partial)
        processor.image_processor.save_pretrained(partial)
        processor.video_processor.save_pretrained(partial)
        _for_older_readers(partial, described)


def _for_older_readers(folder: Path, family: Family) -> None:
    """Add what transformers 4.57 reads under other names than 5 writes them."""
    path = folder / "tokenizer_config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["additional_special_tokens"] = tree.pop("extra_special_tokens")
    tree["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, tree)
    path = folder / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    rope = dict(family.tiny.text["rope_parameters"])
    tree["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    write_json(path, tree)


def _tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

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
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def _processor(family: Family, tokenizer: PreTrainedTokenizerFast) -> Any:
    import transformers

    pixels = {
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.97] * 3,
        "image_std": [0.35] * 3,
        "size": {"shortest_edge": 256, "longest_edge": 262_144},
    }
    video_processor = getattr(transformers, family.tiny.video_processor)
    return getattr(transformers, family.tiny.processor)(
        image_processor=transformers.Qwen2VLImageProcessor(do_resize=False, **pixels),
        tokenizer=tokenizer,
        video_processor=video_processor(do_resize=False, **pixels),
        chat_template=CHAT_TEMPLATE,
    )


def _model(family: Family, tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import AutoModelForImageTextToText, GenerationConfig

    model: Any = AutoModelForImageTextToText.from_config(
        configuration(family, len(tokenizer), tokenizer), dtype=torch.float32
    )
    with torch.no_grad():
        nn.init.normal_(model.model.visual.patch_embed.proj.weight, std=0.06)
        if hasattr(model.model.visual, "pos_embed"):
            nn.init.normal_(model.model.visual.pos_embed.weight, std=1.0)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def configuration(
    family: Family,
    vocabulary: int = VOCABULARY + len(THINK_TOKENS),
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Any:
    """Return the transformers config of a family's tiny model, of a plan without a tokenizer."""
    import transformers

    text = {**family.tiny.text, "vocab_size": vocabulary}
    ids: dict[str, Any] = {}
    if tokenizer is not None:
        text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        names = ("image_pad", "video_pad", "vision_start", "vision_end")
        keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        ids = {
            key: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
            for key, name in zip(keys, names, strict=True)
        }
    return getattr(transformers, family.tiny.config)(
        text_config=text,
        vision_config=dict(family.tiny.vision),
        tie_word_embeddings=True,
        **ids,
    )
