"""A rank's state in a file without pickles: JSON and the arrays it names in an .npz file.

Plain values, lists, tuples, dicts with text keys, bytes, NumPy arrays, torch tensors and the
records of schema.py come back as they were, floats to the last bit. Reading runs no code.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sapo_vl.schema import Outcome, Reward, Sample, Verdict

RECORDS: dict[str, Any] = {cls.__name__: cls for cls in (Sample, Reward, Verdict)}

JSON_ENTRY = "json"


def write_state(path: Path, state: Any) -> None:
    """Write `state`. Raises TypeError for a value of any other type than those above."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_encode(state, arrays))
    arrays[JSON_ENTRY] = np.frombuffer(text.encode(), np.uint8)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def read_state(path: Path) -> Any:
    """Return what `write_state` wrote. A damaged file raises ValueError, KeyError or OSError."""
    with np.load(path, allow_pickle=False) as arrays:
        tree = json.loads(arrays[JSON_ENTRY].tobytes().decode())
        return _decode(tree, arrays)


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return JSON in which everything but plain values and lists is {kind: content}."""

    def array(kind: str, content: np.ndarray) -> dict[str, str]:
        name = f"a{len(arrays)}"
        arrays[name] = content
        return {kind: name}

    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Outcome):
        return {"Outcome": value.value}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_encode(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, arrays) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, arrays) for key, item in value.items()}}
    if isinstance(value, bytes):
        return array("bytes", np.frombuffer(value, np.uint8))
    if isinstance(value, np.ndarray) and value.dtype != object:
        return array("array", value)
    if isinstance(value, torch.Tensor):
        return array("tensor", value.detach().cpu().numpy())
    name = type(value).__name__
    if is_dataclass(value) and RECORDS.get(name) is type(value):
        content = {f.name: _encode(getattr(value, f.name), arrays) for f in fields(value)}
        return {name: content}
    raise TypeError(f"a checkpoint can't hold a {name}: {value!r}"[:200])


def _decode(tree: Any, arrays: Any) -> Any:
    if isinstance(tree, list):
        return [_decode(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind in RECORDS:
        return RECORDS[kind](**{name: _decode(item, arrays) for name, item in content.items()})
    match kind:
        case "Outcome":
            return Outcome(content)
        case "tuple":
            return tuple(_decode(item, arrays) for item in content)
        case "dict":
            return {name: _decode(item, arrays) for name, item in content.items()}
        case "bytes":
            return arrays[content].tobytes()
        case "array":
            return arrays[content]
        case "tensor":
            return torch.from_numpy(arrays[content])
    raise ValueError(f"unknown kind {kind!r}")
