"""A trained model as a Hugging Face folder: the files of the folder it started from, new weights.

Nothing that training leaves alone is serialised again: transformers drops files and keys that
another version of it needs, and refuses to save settings that it loads. Every file of the base is
copied byte for byte except its weights; config.json is changed only where it names another dtype.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sapo_vl.model.weight_files import is_weight_file
from sapo_vl.runs.files import atomic_write, sync_to_disk
from sapo_vl.runs.lock import LOCK_FILE

SHARD_BYTES = 5 * 2**30
"""Weights are written in files of about this size; one is in memory at a time."""


def save_model(out: Path, base: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Write `out` atomically: the files of `base`, and `weights` in checkpoint layout.

    Args:
        out: the folder; a killed attempt leaves nothing under this name.
        base: the model folder that training started from; links in it are followed, its code
            is copied and never run.
        weights: (name, whole tensor), in the order they are written.

    Raises OSError or SafetensorError when the disk is full.
    """
    with atomic_write(out) as partial:
        partial.mkdir()
        for file in _files(base, out):
            target = partial / file.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        dtypes = _write_weights(partial, weights)
        if len(dtypes) == 1:
            _set_dtype(partial / "config.json", dtypes.pop())
        sync_to_disk(partial, below=True)


def _files(base: Path, out: Path) -> Iterator[Path]:
    """Yield the regular files of `base` to copy; not from hidden folders, nor from one with `out`.

    A hub download keeps whole copies of its files in hidden folders.
    """
    inside = {out.absolute(), *out.absolute().parents}
    for folder, folders, names in os.walk(base):
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and Path(folder, name).absolute() not in inside
        ]
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not is_weight_file(name) and name != LOCK_FILE:
                yield path


def _write_weights(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
    """Write model.safetensors, or shards with an index; return the dtypes met."""
    places: dict[str, int] = {}  # name -> number of its shard
    dtypes: set[str] = set()
    shard: dict[str, Tensor] = {}
    total = size = count = 0
    for name, tensor in weights:
        length = tensor.numel() * tensor.element_size()
        if shard and size + length > SHARD_BYTES:
            write_tensors(folder / f"shard-{count}", shard)
            shard, size, count = {}, 0, count + 1
        shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
        places[name] = count
        dtypes.add(str(tensor.dtype).removeprefix("torch."))
        size, total = size + length, total + length
    if count == 0:
        write_tensors(folder / "model.safetensors", shard)
        return dtypes
    write_tensors(folder / f"shard-{count}", shard)
    names = [f"model-{i + 1:05d}-of-{count + 1:05d}.safetensors" for i in range(count + 1)]
    for i, name in enumerate(names):
        (folder / f"shard-{i}").rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[i] for name, i in places.items()},
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return dtypes


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file with the permissions that other new files get."""
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read


def _set_dtype(config: Path, dtype: str) -> None:
    """Make every dtype in config.json the weights' own; leave the file alone if they are."""
    tree = json.loads(config.read_text(encoding="utf-8"))
    nodes: list[dict[str, Any]] = [tree, *(v for v in tree.values() if isinstance(v, dict))]
    places = [(n, key) for n in nodes for key in ("dtype", "torch_dtype") if key in n]
    wrong = [(n, key) for n, key in places if str(n[key]).removeprefix("torch.") != dtype]
    for node, key in wrong:
        node[key] = dtype
    if not places and dtype != "float32":  # without the key, float32 is assumed
        tree["torch_dtype"] = dtype
    elif not wrong:
        return
    text = json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    config.write_text(text, encoding="utf-8")
