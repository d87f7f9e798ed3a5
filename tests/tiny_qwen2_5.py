"""A tiny random Qwen2.5-VL as a model folder, with the tokenizer of the tiny Qwen3-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def build(out: Path, qwen3_folder: Path) -> Path:
    """Write config, weights and processor to `out`; vision tokens are those of `qwen3_folder`."""
    import torch
    from transformers import (
        AutoProcessor,
        GenerationConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )

    known = AutoProcessor.from_pretrained(qwen3_folder)
    tokenizer, pixels = known.tokenizer, known.image_processor
    torch.manual_seed(0)
    model: Any = Qwen2_5_VLForConditionalGeneration(config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(out)
    Qwen2_5_VLProcessor(
        image_processor=pixels,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(do_resize=False, patch_size=8, merge_size=2),
        chat_template=known.chat_template,
    ).save_pretrained(out)
    return out


def config(tokenizer: Any, **text: Any) -> Any:
    """Return the config; `text` overrides keys of the text model's."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,  # heads of 32, the smallest that vLLM has on a CPU
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [6, 5, 5],
            },
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 128,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
