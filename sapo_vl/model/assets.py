"""A model's files except its weights: config, tokenizer, processor, generation config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError

VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")

BAN_BIAS = -100.0
"""Added to the logit of a banned id, by generator and learner alike: exp(-100) is 0 in practice."""


@dataclass(frozen=True, slots=True)
class ModelAssets:
    """All that is known of a model without its weights."""

    path: str  # folder or hub id
    config: Any  # transformers configuration, with text_config and vision_config
    processor: Any  # transformers processor: tokenizer, image_processor, chat template
    image_token_id: int  # stands for an image in prompts, once per visual token when expanded
    banned_ids: tuple[int, ...]  # vision ids: no response may hold one
    eos_ids: tuple[int, ...]  # ids that end a response

    @property
    def factor(self) -> int:
        """Pixels per side of one visual token (patch x merge: 32 for Qwen3-VL)."""
        vision = self.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer


def open_assets(path: str | Path) -> ModelAssets:
    """Read config and processor. Raises DataError when the folder lacks one of them."""
    from transformers import AutoConfig, AutoProcessor, GenerationConfig

    name = str(path)
    local = Path(name)
    if local.exists() or _looks_local(name):
        if not local.exists():
            raise DataError(f"model.path={name} does not exist")
        if not (local / "config.json").is_file():
            raise DataError(f"model.path={name} is not a model folder: config.json is missing")
        if not any(
            (local / f).is_file() for f in ("preprocessor_config.json", "processor_config.json")
        ):
            raise DataError(
                f"model.path={name} has no processor (preprocessor_config.json is missing): "
                "copy the processor files of the base model into it"
            )
    try:
        config = AutoConfig.from_pretrained(name)
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"model.path={name} can't be opened: {first}") from error
    if not hasattr(config, "vision_config"):
        raise DataError(f"model.path={name} is a {config.model_type} model without a vision tower")
    try:
        eos: Any = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # optional in a folder; the tokenizer's end token is the usual value
        eos = None
    eos = processor.tokenizer.eos_token_id if eos is None else eos
    ids = processor.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    banned = tuple(i for i in ids if i is not None and i != processor.tokenizer.unk_token_id)
    return ModelAssets(
        path=name,
        config=config,
        processor=processor,
        image_token_id=int(config.image_token_id),
        banned_ids=banned,
        eos_ids=tuple(eos) if isinstance(eos, list) else (int(eos),),
    )


def _looks_local(name: str) -> bool:
    """Return whether a name is a path: a hub id is `name` or `owner/name`, and no folder here."""
    first = name.split("/")[0]
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(first).is_dir()
