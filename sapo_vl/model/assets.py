"""A model's files except its weights: config, tokenizer, processor, generation config."""

from __future__ import annotations

import json
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
    def is_hub_id(self) -> bool:
        """Whether `path` names a model of the hub and no folder of this machine."""
        return not Path(self.path).is_dir()

    @property
    def folder(self) -> Path:
        """The folder that holds the files: `path`, or a hub id's snapshot in the cache."""
        if not self.is_hub_id:
            return Path(self.path)
        from transformers.utils import cached_file

        return Path(str(cached_file(self.path, "config.json"))).parent

    @property
    def positions(self) -> int:
        """The longest sequence the text model has positions for, in tokens."""
        return int(self.config.text_config.max_position_embeddings)

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
    from transformers import AutoConfig, AutoProcessor, PretrainedConfig

    name = str(path)
    _check_config_file(name)
    try:
        # The raw file, because transformers may not know the model type either.
        family = family_of(PretrainedConfig.get_config_dict(name)[0].get("model_type"))
        _check_processor_file(name)
        # Code in a model folder (auto_map) is never run; transformers would ask on stdin.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        family.check(config, processor.image_processor)
        banned = _vision_ids(family, config, processor.tokenizer)
        eos = _eos_ids(name, processor.tokenizer)
    except DataError as error:
        raise DataError(f"model.path={name}: {error}") from error
    except Exception as error:  # malformed files make transformers raise almost anything
        lines = str(error).split("\n", 2)
        said = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).split()
        reason = " ".join(said) or type(error).__name__
        raise DataError(f"model.path={name} can't be opened: {reason}") from error
    return ModelAssets(
        path=name,
        family=family,
        config=config,
        processor=processor,
        image_token_id=int(config.image_token_id),
        banned_ids=banned,
        eos_ids=eos,
    )


def _vision_ids(family: Family, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the family's vision tokens; a tokenizer may lack all but the image's.

    Raises DataError where config and tokenizer disagree: the chat template writes the tokenizer's
    id, and the model puts pictures on the config's.
    """
    ids = []
    for key, token in family.vision_tokens.items():
        found = tokenizer.convert_tokens_to_ids(token)
        if found == tokenizer.unk_token_id:
            found = None
        if found is None and key != "image_token_id":
            continue
        if found is None or found != getattr(config, key):
            has = "lacks it" if found is None else f"has the id {found}"
            raise DataError(
                f"config.json's {key}={getattr(config, key)} stands for {token}, and the tokenizer "
                f"{has}: take both from the same model"
            )
        ids.append(int(found))
    return tuple(ids)


def _eos_ids(name: str, tokenizer: Any) -> tuple[int, ...]:
    """Return the end ids of generation_config.json, else the tokenizer's end token."""
    from transformers import GenerationConfig

    eos: Any = None
    try:
        eos = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError as error:
        if Path(name, "generation_config.json").exists():  # the file is optional, but not its sense
            raise DataError(f"generation_config.json can't be read: {error}") from error
    eos = tokenizer.eos_token_id if eos is None else eos
    ids = tuple(eos) if isinstance(eos, list) else (eos,)
    if not ids or not all(isinstance(i, int) and 0 <= i < len(tokenizer) for i in ids):
        raise DataError(f"the end token ids {list(ids)} are not ids of the tokenizer")
    return ids


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
    elif not _holds_object(path / "config.json"):
        raise DataError(f"model.path={name}: config.json holds no JSON object")


def _holds_object(file: Path) -> bool:
    """Whether a file holds a JSON object. Raises DataError when it can't be read."""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError):
        return False
    except OSError as error:
        raise DataError(f"model.path: {file} can't be read: {error.strerror}") from error


def _check_processor_file(name: str) -> None:
    files = [Path(name, file) for file in ("preprocessor_config.json", "processor_config.json")]
    if Path(name).exists() and not any(file.is_file() for file in files):
        raise DataError(
            "the folder has no processor (preprocessor_config.json is missing); copy the processor "
            "files of the base model into it"
        )
