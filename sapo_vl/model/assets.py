"""A model's files except its weights: config, tokenizer, processor, generation config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError
from sapo_vl.model.families import family_of
from sapo_vl.model.families.base import Family

BAN_BIAS = -100.0
"""Added to the logit of a banned id, by generator and learner alike: exp(-100) is 0 in practice."""


@dataclass(frozen=True, slots=True)
class ModelAssets:
    """Everything known about a model without its weights."""

    path: str  # folder or hub id
    family: Family
    config: Any  # transformers config, with text_config and vision_config
    processor: Any  # transformers processor: tokenizer, image_processor, chat template
    image_token_id: int  # one per picture in a prompt; one per visual token once expanded
    banned_ids: tuple[int, ...]  # vision token ids, which a response must not contain
    eos_ids: tuple[int, ...]  # ids that end a response

    @property
    def factor(self) -> int:
        """Side of one visual token in pixels (patch x merge: 32 for Qwen3-VL)."""
        return self.family.image_factor(self.config)

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer


def open_assets(path: str | Path) -> ModelAssets:
    """Read config, processor and generation config of a folder or hub id.

    Raises:
        DataError: a file is missing or unreadable, the family is not supported, or this model of a
            supported family is not.
    """
    from transformers import AutoConfig, AutoProcessor, GenerationConfig, PretrainedConfig

    name = str(path)
    _check_config_file(name)
    try:
        # The raw file, because transformers may not know the model type either.
        family = family_of(str(PretrainedConfig.get_config_dict(name)[0].get("model_type")))
        _check_processor_file(name)
        config = AutoConfig.from_pretrained(name)
        processor = AutoProcessor.from_pretrained(name)
        family.check(config)
    except DataError as error:
        raise DataError(f"model.path={name}: {error}") from error
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise DataError(f"model.path={name} can't be opened: {first_line}") from error
    tokenizer = processor.tokenizer
    try:
        eos: Any = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # the file is optional
        eos = None
    eos = tokenizer.eos_token_id if eos is None else eos
    ids = tokenizer.convert_tokens_to_ids(list(family.vision_tokens))
    return ModelAssets(
        path=name,
        family=family,
        config=config,
        processor=processor,
        image_token_id=int(config.image_token_id),
        banned_ids=tuple(i for i in ids if i is not None and i != tokenizer.unk_token_id),
        eos_ids=tuple(eos) if isinstance(eos, list) else (int(eos),),
    )


def _check_config_file(name: str) -> None:
    """Raise DataError when `name` is a path and no model folder.

    A hub id is `name` or `owner/name` where no folder has the name of its first part.
    """
    path = Path(name)
    if not path.exists():
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        if is_path or Path(name.split("/")[0]).is_dir():
            raise DataError(f"model.path={name} does not exist")
    elif not (path / "config.json").is_file():
        raise DataError(f"model.path={name} is not a model folder: config.json is missing")


def _check_processor_file(name: str) -> None:
    files = [Path(name, file) for file in ("preprocessor_config.json", "processor_config.json")]
    if Path(name).exists() and not any(file.is_file() for file in files):
        raise DataError(
            "the folder has no processor (preprocessor_config.json is missing); copy the processor "
            "files of the base model into it"
        )
