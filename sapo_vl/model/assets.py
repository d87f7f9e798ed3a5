"""The policy's folder and module: open, load, freeze, and say what is trained.

A model folder is a plain Hugging Face one: config, weights, tokenizer, processor, generation
config. `open_folder` reads all but the weights; `load` reads them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sapo_vl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ModelFolder:
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


def open_folder(path: str | Path) -> ModelFolder:
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
    return ModelFolder(
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


def load(folder: ModelFolder, dtype: str) -> nn.Module:
    """Return the module with weights on the CPU in `dtype`, in training mode."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        folder.path, dtype=DTYPES[dtype], attn_implementation="sdpa"
    )
    model.config.use_cache = False
    return model.train()


def published(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter in the layout of published folders, which vLLM loads.

    Experts are [E, in, out] there and [E, out, in] in transformers' modules; all else is alike.
    """
    if name.endswith(EXPERTS):
        return tensor.transpose(1, 2).contiguous()
    return tensor


def component(name: str) -> str:
    """Return the component that the parameter `name` belongs to: vision, merger or language."""
    if ".visual." in name or name.startswith("visual."):
        return "merger" if "merger" in name else "vision"
    return "language"


def freeze(model: nn.Module, components: Iterable[str]) -> None:
    """Stop the gradient of whole components; 'vision' takes the mergers with it.

    Raises ConfigError when nothing would be left to train.
    """
    frozen = set(components) | ({"merger"} if "vision" in components else set())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(component(name) not in frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model.freeze={sorted(frozen)} leaves nothing to train")


def trainable_rows(model: nn.Module) -> list[tuple[str, int, int]]:
    """Return (component, parameters, of these trained) for vision, merger, language and all."""
    rows = {name: [0, 0] for name in ("vision", "merger", "language", "all")}
    for name, parameter in model.named_parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 keeps only a shard
        for key in (component(name), "all"):
            rows[key][0] += count
            rows[key][1] += count if parameter.requires_grad else 0
    return [(name, total, trained) for name, (total, trained) in rows.items()]


def frozen_hash(model: nn.Module) -> str:
    """Return a digest of all frozen weights, which no training may change."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
