"""DeepSpeed's configuration: ours, with the user's file `learner.deepspeed` merged over it.

The file tunes communication, offloading and logging. Keys that this toolkit sets from its own
config are refused with the name of the key to use: a second gradient_accumulation_steps, for
example, would divide our gradients. So are names that DeepSpeed doesn't know, which it ignores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, nearest

OURS = {
    "train_batch_size": "rollout.prompts, rollout.group_size and algorithm.num_mini_batches",
    "train_micro_batch_size_per_gpu": "learner.micro_batch_tokens",
    "gradient_accumulation_steps": "learner.micro_batch_tokens",
    "managed_gradient_accumulation": "learner.micro_batch_tokens",
    "gradient_clipping": "learner.max_grad_norm",
    "optimizer": "learner.lr, learner.betas and learner.weight_decay",
    "scheduler": "learner.lr_warmup_steps and learner.final_lr",
    "bf16": "model.dtype",
    "bfloat16": "model.dtype",
    "fp16": "model.dtype",
    "amp": "model.dtype",
    "torch_autocast": "model.dtype",
    "data_types": "learner.grad_accum_dtype",
    "gradient_allreduce_op": "the learner, whose gradient is that of one rank",
    "checkpoint": "checkpoint.every and checkpoint.keep",
    "zero_force_ds_cpu_optimizer": "learner.offload_optimizer",
    "zero_optimization.stage": "learner.zero_stage",
    "zero_optimization.cpu_offload": "learner.offload_optimizer",
    "zero_optimization.cpu_offload_param": "learner.offload_parameters",
    "zero_optimization.offload_optimizer.device": "learner.offload_optimizer",
    "zero_optimization.offload_param.device": "learner.offload_parameters",
}
"""Keys of DeepSpeed that follow from keys of ours."""

KNOWN = (
    *("zero_optimization", "communication_data_type", "prescale_gradients"),
    *("gradient_predivide_factor", "disable_allgather", "zero_allow_untested_optimizer"),
    *("activation_checkpointing", "aio", "steps_per_print", "wall_clock_breakdown"),
    *("memory_breakdown", "dump_state", "flops_profiler", "comms_logger", "tensorboard", "wandb"),
    *("comet", "csv_monitor"),
)
"""Keys at the top of a DeepSpeed file that may be set."""


def deepspeed_settings(config: Config) -> dict[str, Any]:
    """Return DeepSpeed's configuration.

    Raises ConfigError when the file named by learner.deepspeed can't be read, or holds a key that
    is ours, unknown, or without a value of its own ("auto").
    """
    options = config.learner
    zero: dict[str, Any] = {"stage": options.zero_stage}
    if options.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if options.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # our own denominator; every step() is a boundary
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if own_step(config) else options.max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "steps_per_print": 10**9,
    }
    if options.grad_accum_dtype == "float32" and config.model.dtype != "float32":
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if options.deepspeed is not None:
        extra = _read(config)
        try:
            _check(extra, config)
        except ConfigError as error:
            raise ConfigError(f"learner.deepspeed={options.deepspeed}: {error}") from error
        _merge(settings, extra)
    return settings


def own_step(config: Config) -> bool:
    """Whether to use SkippingAdamW: DeepSpeed in float32 without ZeRO neither clips nor skips."""
    return config.learner.zero_stage == 0 and config.model.dtype == "float32"


def _read(config: Config) -> Any:
    path = config.learner.deepspeed
    assert path is not None, "no file"
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"learner.deepspeed={path}: {error}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twin!r} is given twice")
    return found


def _check(extra: Any, config: Config) -> None:
    if not isinstance(extra, dict):
        raise ConfigError(f"it must hold a JSON object, not a {type(extra).__name__}")
    for key, value in _flat(extra):
        ours = next((OURS[name] for name in _prefixes(key) if name in OURS), None)
        if ours is not None:
            raise ConfigError(f"leave {key} out; it follows from {ours}")
        if value == "auto":
            raise ConfigError(f"{key}='auto' is another trainer's: write a value, or leave it out")
    for key in extra:
        if key not in KNOWN:
            hint = nearest(key, [*KNOWN, *OURS]) or f"; allowed: {', '.join(KNOWN)}"
            raise ConfigError(f"{key!r} can't be set here{hint}")
    zero = extra.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ConfigError("zero_optimization must be an object")
    if zero:
        _check_zero(zero, config)


def _check_zero(zero: dict[str, Any], config: Config) -> None:
    """Check the section against DeepSpeed's own class, whose errors it reports in many lines."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    fields = DeepSpeedZeroConfig.model_fields
    known = {name for key, field in fields.items() for name in (key, field.alias or key)}
    for key in zero:
        if key not in known:
            raise ConfigError(f"unknown key 'zero_optimization.{key}'{nearest(key, known)}")
    stage = config.learner.zero_stage
    try:
        DeepSpeedZeroConfig(**{"stage": stage} | zero)
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(["zero_optimization", *map(str, item["loc"])])
        raise ConfigError(f"{place}={item['input']!r}: {item['msg']}") from error
    if zero.get("overlap_comm") and stage < 2:
        raise ConfigError(f"zero_optimization.overlap_comm needs learner.zero_stage=2, not {stage}")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every value and of every object, outer ones first."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
