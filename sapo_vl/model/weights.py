"""The policy's weights: check, load, freeze, count and hash them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapo_vl.config import Config, tiny_family
from sapo_vl.errors import ConfigError, DataError, SetupError
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.families import family_of
from sapo_vl.model.rotary import restore_frequencies
from sapo_vl.model.weight_files import local_shapes, weight_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

NAMED = 3
"""Names of weights that a message repeats."""

OLDEST_TRANSFORMERS = (5, 18)
"""The first release whose models take pictures that are encoded beforehand (`mm_encoder_outputs`).
Older ones ignore that argument without a word: the model would be trained without its pictures."""


def check_model(config: Config) -> None:
    """Check what model.path holds against its own config and the run's lengths.

    Reads configs and the headers of the weight files, no weights. The tiny model, which the run
    builds, is checked for its positions only.

    Raises:
        DataError: the folder can't be opened, or its weights are not those of its config; there is
            no such family of a tiny model, or vLLM has no kernels for the model's sizes.
        ConfigError: generator.max_model_len is above the model's positions.
    """
    family = tiny_family(config.model.path)
    if family is not None:
        positions = int(family_of(family).tiny.text["max_position_embeddings"])
    else:
        assets = open_assets(config.model.path)
        check_weights(assets)
        positions = assets.positions
        if config.generator.backend in ("vllm", "server"):
            try:
                assets.family.engine_options(assets.config, on_gpu=torch.cuda.is_available())
            except DataError as error:
                raise DataError(f"model.path={config.model.path}: {error}") from None
    if config.generator.max_model_len > positions:
        raise ConfigError(
            f"generator.max_model_len={config.generator.max_model_len} is above the {positions} "
            f"positions of model.path={config.model.path}: lower it"
        )


def check_weights(assets: ModelAssets) -> None:
    """Compare names and shapes in a folder's weight files with the model that its config describes.

    transformers maps the names, on tensors without memory. A hub id whose weights are not on this
    machine yet is left to `load_weights`.

    Raises:
        DataError: the folder has no weights, a file is missing or cut off, the weights are
            quantized, or names or shapes differ.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    from transformers.utils import logging as transformers_logging

    if getattr(assets.config, "quantization_config", None) is not None:
        raise DataError(
            f"model.path={assets.path} holds quantized weights (quantization_config), which can't "
            "be trained: name the folder they were made from"
        )
    try:
        files = weight_files(assets.folder)
        if not files and assets.is_hub_id:
            return
        shapes = local_shapes(files)
    except DataError as error:
        raise DataError(f"model.path={assets.path}: {error}") from error
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(assets.config)]
    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        _, info = model_class.from_pretrained(
            None,
            config=assets.config,
            state_dict=meta,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError) as error:  # a conversion of experts met wrong shapes
        first_line = str(error).strip().splitlines()[0]
        raise DataError(f"model.path={assets.path}: weights don't fit: {first_line}") from error
    finally:
        if shows_progress:
            transformers_logging.enable_progress_bar()
    _refuse_differences(assets.path, info)


def load_weights(assets: ModelAssets, dtype: str) -> Any:
    """Return the transformers module with weights on the CPU in `dtype`, in training mode.

    Raises:
        DataError: the folder's weights are not those of its config, or not finite.
        SetupError: the installed transformers is older than OLDEST_TRANSFORMERS.
    """
    from transformers import AutoModelForImageTextToText, __version__

    check_transformers(__version__)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            assets.path,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except OSError as error:
        first_line = str(error).strip().splitlines()[0]
        raise DataError(f"model.path={assets.path}: {first_line}") from error
    model, info = loaded
    _refuse_differences(assets.path, info)
    for name, parameter in model.named_parameters():
        values = getattr(parameter, "ds_tensor", parameter)  # ZeRO-3 keeps only a shard
        if not bool(torch.isfinite(values).all()):
            raise DataError(f"model.path={assets.path}: the weight {name} holds NaN or infinity")
    model.config.use_cache = False
    restore_frequencies(model)
    return model.train()


def check_transformers(installed: str) -> None:
    """Raise SetupError for a release before OLDEST_TRANSFORMERS."""
    if tuple(map(int, re.findall(r"\d+", installed)[:2])) < OLDEST_TRANSFORMERS:
        wanted = ".".join(map(str, OLDEST_TRANSFORMERS))
        raise SetupError(
            f"transformers {installed} is too old: its models ignore encoded pictures; "
            f"pip install 'transformers>={wanted}'"
        )


def _refuse_differences(path: str, info: Mapping[str, Any]) -> None:
    """Raise DataError for what transformers' loading info lists; it knows about tied heads."""
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = [
        f"{name} ({'x'.join(map(str, found))} instead of {'x'.join(map(str, wanted))})"
        for name, found, wanted in sorted(info["mismatched_keys"])
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:NAMED])}{', ..' if len(names) > NAMED else ''}"
        for names, what in (
            (missing, "missing"),
            (shapes, "of another shape"),
            (unexpected, "that its config.json doesn't describe"),
        )
        if names
    ]
    if faults:
        raise DataError(
            f"model.path={path}: weights are not those of the model: {'; '.join(faults)}"
        )


def freeze(model: Any, components: Iterable[str]) -> None:
    """Stop the gradient of whole components ('vision', 'merger', 'language').

    'vision' includes the mergers. Raises ConfigError when a component has no parameters in this
    model, or when nothing is left to train.
    """
    component = family_of(model.config.model_type).component
    present = {component(name) for name, _ in model.named_parameters()}
    requested = set(components)
    for name in sorted(requested - present):
        raise ConfigError(
            f"model.freeze={sorted(requested)}: this {model.config.model_type} model has no "
            f"parameters in the component {name!r}"
        )
    frozen = requested | ({"merger"} if "vision" in requested else set())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(component(name) not in frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model.freeze={sorted(frozen)} leaves nothing to train")


def trainable_rows(model: Any) -> list[tuple[str, int, int]]:
    """Return (component, parameters, trained parameters) of vision, merger, language and all."""
    component = family_of(model.config.model_type).component
    rows = {name: [0, 0] for name in ("vision", "merger", "language", "all")}
    for name, parameter in model.named_parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 keeps only a shard
        for key in (component(name), "all"):
            rows[key][0] += count
            rows[key][1] += count if parameter.requires_grad else 0
    return [(name, total, trained) for name, (total, trained) in rows.items()]


@dataclass(frozen=True, slots=True)
class FrozenWeights:
    """What identifies the weights that training must not change."""

    parameters: int
    digest: str  # of names, types, shapes and every bit; empty where nothing is frozen


def frozen_weights(named: Iterable[tuple[str, Tensor]]) -> FrozenWeights:
    """Return the digest of whole frozen tensors, by name; their order doesn't matter."""
    count, lines = 0, []
    for name, tensor in named:
        count += tensor.numel()
        lines.append(f"{name} {tensor.dtype} {list(tensor.shape)} {checksum(tensor)}")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
    return FrozenWeights(count, digest if lines else "")


CHECKSUM_WORDS = {"cpu": 2**16, "cuda": 2**22}
"""Words of a block: what fits a core's cache, and on a GPU few kernels with 100 MB of scratch."""

MIXER = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""Shifts and factors of SplitMix64's output function (Steele, Lea and Flood 2014)."""


def checksum(tensor: Tensor) -> int:
    """Return sum over i of splitmix((2 i + 1) * word_i) mod 2^64 of a tensor's 8-byte words.

    It is computed where the tensor is, so that a GPU's weights stay there; SHA-256 would need the
    bytes in host memory. Each step before the sum can be undone, so a change within one word always
    shows; changes in several cancel out by a chance of about 2^-64. It is no protection against
    somebody who means to deceive.
    """
    flat = tensor.detach().reshape(-1)
    per_word = 8 // flat.element_size()
    padding = flat.new_zeros(-flat.numel() % per_word)
    if padding.numel() or flat.storage_offset() % per_word:
        flat = torch.cat([flat, padding])
    words = flat.view(torch.int64)
    size = CHECKSUM_WORDS[flat.device.type]
    factors = 2 * torch.arange(size, dtype=torch.int64, device=flat.device) + 1
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, words.numel(), size):
        block = words[start : start + size]
        mixed = block * (factors[: block.numel()] + 2 * start)
        for shift, factor in MIXER:
            mixed ^= (mixed >> shift) & (2 ** (64 - shift) - 1)  # int64's own shift keeps the sign
            mixed *= factor if factor < 2**63 else factor - 2**64
        total += mixed.sum()
    return int(total)
