"""Messages about a config: unknown keys, with the nearest known one, and invalid values."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sapo_vl.errors import ConfigError, nearest

BUILT_IN_OBJECTIVES = ("sapo", "grpo", "gspo", "dapo", "cispo", "dr_grpo")
"""Known here so that an option of another objective is refused by name."""

RENAMED = {
    "clip": "a section of the objective, e.g. grpo.low and grpo.high",
    "learner.clip": "learner.max_grad_norm",
    "learner.packing": "learner.layout",
    "learner.warmup_steps": "learner.lr_warmup_steps",
    "rollout.refill": "rollout.max_resample_rounds",
    "run.wandb_project": "the environment variable WANDB_PROJECT",
    "sapo.advantage_std": "algorithm.normalize_advantages",
    "sapo.mini_batches": "algorithm.num_mini_batches",
    "sapo.mismatch_cap": "algorithm.importance_cap",
    "sft.warmup_steps": "sft.lr_warmup_steps",
}
"""Keys of version 0.1 and what replaced them, for the error message."""


def check_keys(
    root: type[BaseModel], model: type[BaseModel], tree: Any, prefix: str, where: str
) -> None:
    """Refuse unknown keys before pydantic sees them, with the nearest known name."""
    if not isinstance(tree, dict):
        if prefix:
            raise ConfigError(f"{where}: '{prefix}' holds a group of keys, not a value")
        return
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in model.model_fields:
            raise ConfigError(
                f"{where}: unknown key '{name}'{_suggest(root, model, prefix, str(key))}"
            )
        field = model.model_fields[key].annotation
        if isinstance(field, type) and issubclass(field, BaseModel):
            check_keys(root, field, value, name, where)
        elif isinstance(value, list):
            (item,) = get_args(field)[:1] or (None,)
            if isinstance(item, type) and issubclass(item, BaseModel):
                for i, entry in enumerate(value):
                    check_keys(root, item, entry, f"{name}[{i}]", where)


def _suggest(root: type[BaseModel], model: type[BaseModel], prefix: str, key: str) -> str:
    if (name := f"{prefix}.{key}" if prefix else key) in RENAMED:
        return f"; it is now {RENAMED[name]}"
    everywhere = [f"{s}.{k}" for s, f in root.model_fields.items() for k in _fields(f.annotation)]
    same_leaf = [name for name in everywhere if name.endswith(f".{key}")]
    if same_leaf:
        return f"; did you mean '{same_leaf[0]}'?"
    if prefix and nearest(key, model.model_fields):
        return nearest(f"{prefix}.{key}", [f"{prefix}.{name}" for name in model.model_fields])
    known = [name for name in model.model_fields if name != "objective_options"]
    top_level = [name for name in root.model_fields if name != "objective_options"]
    return nearest(key, [*top_level, *BUILT_IN_OBJECTIVES, *everywhere]) or (
        f"; known here: {', '.join(known)}"
    )


def _fields(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def one_line(error: ValidationError, prefix: str = "") -> str:
    parts = []
    for item in error.errors():
        key = prefix + ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{key}={item['input']!r}: {message}" if key else message)
    return "; ".join(parts)
