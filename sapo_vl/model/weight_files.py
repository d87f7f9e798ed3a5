"""The weight files of a model folder: which there are, and the names and shapes they hold.

Only headers are read. `.bin` files are pickles: they are opened with weights_only, which refuses
code.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

from sapo_vl.errors import DataError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

WEIGHT_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5"),
    *(".msgpack", ".gguf", ".onnx", ".npz"),
)
"""Files of weights or optimizer states, in whatever format."""

MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit of a header."""


def is_weight_file(name: str) -> bool:
    """Whether a file holds weights, or is the index of such files."""
    lower = name.lower()
    return lower.endswith(WEIGHT_SUFFIXES) or lower.endswith(
        tuple(f"{suffix}.index.json" for suffix in WEIGHT_SUFFIXES)
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads from `folder`: safetensors first, whole or sharded.

    Returns an empty list when `folder` is not a folder on this machine. Raises DataError when it
    has no weights, or lacks a file that its index names.
    """
    if not folder.is_dir():
        return []
    for single, index in zip(("model.safetensors", "pytorch_model.bin"), INDEXES, strict=True):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _indexed(folder / index)
    hint = (
        "it holds an adapter: merge it into its base model first"
        if (folder / "adapter_config.json").exists()
        else "model.safetensors is missing"
    )
    raise DataError(f"the folder has no weights; {hint}")


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index.name} can't be read: {error!r}") from error
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise DataError(f"{file.name} is missing; {index.name} names it")
    return files


def local_shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in weight files, by the name it has there.

    Raises DataError for a file that is cut off, damaged or holds code.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        read = _safetensors_shapes if file.suffix == ".safetensors" else _pickle_shapes
        try:
            shapes |= read(file)
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{file.name} is damaged: {error!r}"[:300]) from error
    return shapes


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the header: 8 bytes of its length, then JSON with each tensor's shape and place."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise DataError(f"{file.name} is cut off or no safetensors file ({size} bytes)")
        header = json.loads(stream.read(length))
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size < end:
        raise DataError(f"{file.name} is cut off: it has {size} of {end} bytes")
    return {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}


def _pickle_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    import torch

    try:
        state = torch.load(file, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise DataError(f"{file.name} can't be read without running code: {first_line}") from error
    return {str(name): tuple(tensor.shape) for name, tensor in state.items()}
