"""Keys and values of a config: unknown keys, values read by their key's type, error messages.

YAML reads an unquoted `20251125`, `2025-11-25`, `010` or `1:30` as numbers and dates. Here the type
of the key decides: a text or path keeps the characters that were written.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError

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


Source = tuple[str, dict[str, Any]]
"""Where keys come from, for messages, and their tree; its leaves may be PlainScalars."""


def read_sources(
    root: type[BaseModel], files: Sequence[Path], overrides: Sequence[str]
) -> list[Source]:
    """Parse YAML files and `dotted.key=value` overrides, lowest precedence first."""
    sources: list[Source] = [(str(path), _read_yaml(path)) for path in files]
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"'{item}' is not an override; write key=value, e.g. learner.lr=1e-5")
        sources.append(("the command line", _nested(key, _override(root, key, text))))
    return sources


def last_named(sources: Sequence[Source], key: str) -> Any:
    """Return the value of a dotted key that wins among `sources`, None where it isn't named."""
    found = None
    for _, tree in sources:
        value: Any = tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found = found if value is None else value
    return found


def merged_tree(root: type[BaseModel], sources: Sequence[Source]) -> tuple[str, dict[str, Any]]:
    """Return the objective's name, and one tree in which later sources win; see `typed`.

    Raises ConfigError for an unknown key, and for options of another objective.
    """
    named = last_named(sources, "objective")
    objective = str(root.model_fields["objective"].default if named is None else named)
    tree: dict[str, Any] = {}
    for where, source in sources:
        _check_sections(root, source, objective, where)
        _merge(tree, source, root)
    return objective, tree


def _check_sections(
    root: type[BaseModel], tree: dict[str, Any], objective: str, where: str
) -> None:
    """Refuse unknown keys, and the option section of any objective but the chosen one."""
    section = section_of(objective)
    if section in root.model_fields:
        raise ConfigError(f"objective={objective}: {section!r} is a section already; rename it")
    for name in tree:
        if name in BUILT_IN_OBJECTIVES and name != section:
            raise ConfigError(
                f"{where}: '{name}' holds options of objective={name}, and the objective is "
                f"{objective}"
            )
    if section in tree and not isinstance(tree[section], dict):
        raise ConfigError(f"{where}: '{section}' holds a group of keys, not a value")
    if "objective_options" in tree:
        raise ConfigError(f"{where}: write the objective's options as {section}.NAME=VALUE")
    check_keys(root, root, {key: v for key, v in tree.items() if key != section}, "", where)


def section_of(objective: str) -> str:
    """Return the config section of an objective's options: its name, or its function's name."""
    return objective.rpartition(":")[2]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        here = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        raise ConfigError(f"--config {path} does not exist{nearest(str(path), here)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--config {path} can't be read: {' '.join(str(error).split())}"
        ) from None
    if tree is None or getattr(tree, "value", tree) is None:
        return {}
    if not isinstance(tree, dict):
        kind = type(getattr(tree, "value", tree)).__name__
        raise ConfigError(f"--config {path} must hold 'key: value' lines, not a {kind}")
    return tree


def _override(root: type[BaseModel], key: str, text: str) -> Any:
    """Return the value of an override: as written for a key with one value, else read as YAML."""
    annotation: Any = root
    for part in key.split("."):
        fields = getattr(annotation, "model_fields", {})
        annotation = fields[part].annotation if part in fields else Any
    one_value, quoted = is_scalar(annotation), text[:1] in ("'", '"')
    if one_value and not quoted:
        return PlainScalar(text)
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        if one_value:  # a text that begins with a quoted word
            return PlainScalar(text)
        raise ConfigError(f"{key}={text} is not a value in YAML notation") from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = _Dotted({part: value})
    return value


class _Dotted(dict[str, Any]):
    """A mapping made from `a.b=value`: it changes one key, where `a={b: value}` sets them all."""


def _merge(tree: dict[str, Any], source: dict[str, Any], model: Any) -> None:
    """Merge sections key by key; a value replaces a value, mappings such as data.ratio included."""
    fields = getattr(model, "model_fields", {})
    for key, value in source.items():
        annotation = fields[key].annotation if key in fields else None
        section = next((m for m in _members(annotation) if _is_section(m)), None)
        is_part = section is not None or key not in fields or isinstance(value, _Dotted)
        if isinstance(value, dict) and is_part:
            below = tree.get(key)
            tree[key] = dict(below) if isinstance(below, dict) else {}  # it may be null
            _merge(tree[key], value, section)
        else:
            tree[key] = value


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
    """Return pydantic's findings as `key=value: what is allowed`, values shortened."""
    parts = []
    for item in error.errors():
        key = prefix + ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{key}={_shown(item['input'])}: {message}" if key else message)
    return "; ".join(parts)


def _shown(value: Any) -> str:
    text = re.sub(r"//[^/@\s]*@", "//***@", repr(value))  # a URL's password is not printed
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


LONGEST_SHOWN = 120
"""Characters of a wrong value that a message repeats."""


def _user_path(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text or "\0" in text:
        raise ValueError("a path is neither empty nor holds a NUL character")
    return Path(expand_home(text))


UserPath = Annotated[Path, BeforeValidator(_user_path)]
"""A path written by a user: `~` and `~name` are home folders, which a shell leaves in `key=~/x`."""


def expand_home(text: str) -> str:
    """Return a path with `~` or `~name` at its start replaced. Raises ValueError for no user."""
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not Path(text).exists():
        raise ValueError(f"there is no user {text.split('/')[0][1:]!r}")
    return expanded


def service_url(text: str) -> str:
    """Return the address of an HTTP service.

    Raises ValueError when it is none, or holds a password or query, which would be stored with the
    run's configuration; an API key belongs into its environment variable.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a URL holds no password or query; set OPENAI_API_KEY instead")
    if parts.port == 0:
        raise ValueError("port 0 is no port")
    return text


class PlainScalar(str):
    """An unquoted YAML scalar: the characters written, and what YAML takes them for."""

    value: Any

    def __new__(cls, text: str, value: Any = None) -> PlainScalar:
        scalar = super().__new__(cls, text)
        scalar.value = text if value is None and text else value
        return scalar


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps the text of unquoted scalars and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        seen = set()
        for key, _ in node.value:
            if key.value != "<<" and isinstance(key.value, str):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _plain_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    try:
        value = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    except ValueError:  # 2025-13-45 looks like a date
        value = node.value
    if node.style is not None:
        return value
    scalar = PlainScalar(node.value)
    scalar.value = value
    return scalar


for _tag in ("int", "float", "bool", "null", "timestamp", "str"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _plain_scalar)


def read_yaml(text: str) -> Any:
    """Parse YAML into dicts, lists, quoted strings and PlainScalars, which `typed` converts.

    Raises yaml.YAMLError, also for nesting that is too deep.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def typed(value: Any, annotation: Any) -> Any:
    """Return `value` with its PlainScalars read by the type `annotation`; others stay."""
    if isinstance(value, PlainScalar):
        return _scalar(value, _members(annotation))
    if isinstance(value, dict):
        model = next((m for m in _members(annotation) if _is_section(m)), None)
        if model is not None:
            fields = model.model_fields
            return {
                str(k): typed(v, fields[k].annotation if k in fields else Any)
                for k, v in value.items()
            }
        item = _items(annotation, dict, 2)[-1]
        return {str(k): typed(v, item) for k, v in value.items()}
    if isinstance(value, list):
        items = _items(annotation, (list, tuple), len(value))
        return [typed(v, items[min(i, len(items) - 1)]) for i, v in enumerate(value)]
    return value


def is_scalar(annotation: Any) -> bool:
    """Whether a key of this type holds one value: a number, text, path, choice or nothing."""
    scalars = (bool, int, float, str, Path, type(None))
    return all(m in scalars or get_origin(m) is Literal for m in _members(annotation))


def _is_section(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, BaseModel)


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type, without Annotated's metadata."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(m for option in get_args(annotation) for m in _members(option))
    return (annotation,)


def _items(annotation: Any, kinds: Any, count: int) -> tuple[Any, ...]:
    for member in _members(annotation):
        origin = get_origin(member)
        if isinstance(origin, type) and issubclass(origin, kinds) and get_args(member):
            return get_args(member)
    return (Any,) * max(1, count)


def _scalar(text: PlainScalar, members: tuple[Any, ...]) -> Any:
    choices = [c for m in members if get_origin(m) is Literal for c in get_args(m)]
    kinds = {*members, *map(type, choices)}
    nothing = ("null", "none", "") if Path in kinds else ("null", "none", "", "~")
    if type(None) in kinds and text.lower() in nothing:
        return None
    if bool in kinds and isinstance(text.value, bool):
        return text.value
    if kinds & {int, float}:
        return _number(text)
    if kinds & {str, Path}:
        return str(text)
    return _number(text) if type(text.value) is str else text.value  # YAML reads 1e-5 as a text


def _number(text: PlainScalar) -> Any:
    """Return the int or float that is written, or the text itself for pydantic to refuse."""
    digits = text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")
    for kind in (int, float):
        try:
            return kind(digits)
        except ValueError:
            continue
    return str(text)
