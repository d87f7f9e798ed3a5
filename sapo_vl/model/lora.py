"""Low-rank adapters (LoRA) in the policy, injected by PEFT; the base weights stay as they are.

A linear layer W gets W x + s B (A x) with A [r, in], B [out, r] and s = alpha / rank; B starts at
zero, so that an untrained adapter changes nothing. The sampler gets A and B alone: merging them
into bfloat16 weights would lose most of an update of the size that RL makes. Only an exported
model is merged, in float32 before it is rounded.

Names: modules call the tensors `X.lora_A.default.weight` and the frozen weight
`X.base_layer.weight`; PEFT's files say `base_model.model.X.lora_A.weight`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapo_vl.config.sections import LoraConfig
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.model.families import family_of
from sapo_vl.model.save import write_tensors
from sapo_vl.runs.files import atomic_write, sync_to_disk

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
"""A PEFT folder's files."""

PARTS = {"language": r"model\.language_model\.layers", "vision": r"model\.visual\.blocks"}
"""Where adapters can be: the layers of the text model, and the blocks of the vision tower."""

PEFT_PREFIX = "base_model.model."


def inject(model: Any, options: LoraConfig, frozen: Iterable[str], seed: int) -> None:
    """Add adapters to a model's linear layers, and stop the gradient of everything else.

    Args:
        model: the transformers module; its layers are replaced in place, base weights kept.
        options: model.lora, with a rank above 0.
        frozen: components without adapters (model.freeze).
        seed: of the adapters' A matrices.

    Raises:
        ConfigError: the model has experts, targets name no linear layer of it, or a layer that
            can't have an adapter.
        DataError: model.lora.path is no adapter of these layers.
    """
    from peft import inject_adapter_in_model

    settings = peft_settings(model, options, frozen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model)
    if options.path is not None:
        _load(model, options)


def peft_settings(model: Any, options: LoraConfig, frozen: Iterable[str]) -> Any:
    """Return PEFT's LoraConfig for a model. Raises ConfigError as `inject` does."""
    from peft import LoraConfig as PeftConfig

    if family_of(model.config.model_type).expert_blocks(model):
        raise ConfigError(
            "model.lora can't be used with experts: set model.lora.rank=0, or name a dense model"
        )
    pattern = _pattern(_target_names(model, options, set(frozen)))
    return PeftConfig(
        r=options.rank,
        lora_alpha=options.alpha or options.rank,
        target_modules=pattern,
        lora_dropout=0.0,
        bias="none",
    )


def _target_names(model: Any, options: LoraConfig, frozen: set[str]) -> dict[str, set[str]]:
    """Return the names below a layer, such as `self_attn.q_proj`, of each of PARTS."""
    family = family_of(model.config.model_type)
    recurrent = {id(m) for net in family.delta_nets(model) for m in net.modules()}
    found: dict[str, set[str]] = {part: set() for part in PARTS}
    for name, module in model.named_modules():
        for part, place in PARTS.items():
            below = re.fullmatch(rf"{place}\.\d+\.(.+)", name)
            if below and isinstance(module, nn.Linear) and id(module) not in recurrent:
                found[part].add(below[1])
    if isinstance(options.targets, list):
        for target in options.targets:
            known = {name for names in found.values() for name in names}
            if not any(_ends(name, target) for name in known):
                leaves = sorted({name.rpartition(".")[2] for name in known})
                raise ConfigError(
                    f"model.lora.targets: {target!r} is no linear layer that can have an adapter "
                    f"(those are {', '.join(leaves)})"
                )
        found = {
            part: {name for name in names if any(_ends(name, t) for t in options.targets)}
            for part, names in found.items()
        }
    elif options.targets == "language":
        found["vision"] = set()
    for part in frozen & set(found):
        found[part] = set()
    if not any(found.values()):
        raise ConfigError(
            f"model.lora.targets={options.targets} has only layers of components in model.freeze"
        )
    return found


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _pattern(names: Mapping[str, set[str]]) -> str:
    """Return a regular expression for the whole names of the modules, as PEFT matches them."""
    return "|".join(
        rf"{PARTS[part]}\.\d+\.({'|'.join(re.escape(name) for name in sorted(below))})"
        for part, below in names.items()
        if below
    )


def settings_of(model: Any, base: str) -> Any:
    """Return the PEFT settings that a model's adapters were injected with, for a folder.

    `base` is the path or hub id of the model that the adapters belong to.
    """
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = base
    return settings


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter's matrix."""
    return ".lora_A." in name or ".lora_B." in name


def peft_name(name: str) -> str:
    """Return the name in PEFT's files of an adapter's parameter of the transformers module."""
    return PEFT_PREFIX + name.replace(".default.", ".")


def module_name(name: str) -> str:
    """Return the parameter name in the transformers module of an entry of PEFT's files."""
    inner = name.removeprefix(PEFT_PREFIX)
    return re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", inner)


def write_adapter(folder: Path, tensors: Iterable[tuple[str, Tensor]], settings: Any) -> int:
    """Write a PEFT folder of (PEFT name, tensor), whole or not at all; return its weights' bytes.

    `settings` is PEFT's LoraConfig. Raises OSError or SafetensorError when the disk is full.
    """
    kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors}
    with atomic_write(folder) as partial:
        partial.mkdir()
        write_tensors(partial / WEIGHTS, kept)
        settings.save_pretrained(partial)
        sync_to_disk(partial, below=True)
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and tensors, by PEFT's names, of an adapter folder.

    Raises DataError for a folder that is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise DataError(f"{folder} is not a PEFT adapter folder: {first_line}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{folder / SETTINGS} doesn't hold an object")
    return settings, tensors


def _load(model: Any, options: LoraConfig) -> None:
    """Fill the injected adapters from model.lora.path. Raises DataError where they differ."""
    assert options.path is not None
    where = f"model.lora.path={options.path}"
    settings, tensors = read_adapter(options.path)
    wanted = {"r": options.rank, "lora_alpha": options.alpha or options.rank}
    for key, value in wanted.items():
        if settings.get(key) != value:
            own_key = "model.lora.rank" if key == "r" else "model.lora.alpha"
            raise DataError(
                f"{where} has {key}={settings.get(key)} and the run {value}: set {own_key}"
            )
    if any(settings.get(key) for key in ("use_dora", "use_rslora", "rank_pattern", "bias_pattern")):
        raise DataError(f"{where} is of another kind than plain LoRA")
    given = {module_name(name): tensor for name, tensor in tensors.items()}
    own = {name: p for name, p in model.named_parameters() if is_adapter(name)}
    differing = sorted(own.keys() ^ given.keys())
    if differing:
        side = "lacks" if differing[0] in own else "holds"
        raise DataError(
            f"{where} {side} {differing[0]} ({len(differing)} such): set model.lora.targets as it "
            "was trained with"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != given[name].shape:
                raise DataError(
                    f"{where}: {name} is {list(given[name].shape)}, not {list(parameter.shape)}"
                )
            parameter.copy_(given[name])


def merged(
    weights: Iterable[tuple[str, Tensor]], adapters: Mapping[str, Tensor], scale: float
) -> Iterator[tuple[str, Tensor]]:
    """Yield a model's weights under their plain names, with the adapters added.

    The sum is made in float32 and rounded once to the weight's type.

    Args:
        weights: (name, tensor); a layer with an adapter may be called `X.base_layer.weight`.
        adapters: both matrices of each adapter, by their names in the module.
        scale: alpha / rank.
    """
    for name, tensor in weights:
        plain = name.replace(".base_layer.", ".")
        stem = plain.removesuffix(".weight")
        a, b = (adapters.get(f"{stem}.lora_{side}.default.weight") for side in "AB")
        if a is None or b is None or not plain.endswith(".weight"):
            yield plain, tensor
        else:
            update = scale * (b.float() @ a.float())
            yield plain, (tensor.float() + update.to(tensor.device)).to(tensor.dtype)
