"""Adapters on their way into a running vLLM engine: PEFT folders in shared memory.

vLLM reads an adapter from a folder. Each version has a folder of its own, because the prefix cache
tells adapters apart by path; the one before it is removed. The folder's settings are those that the
learner's layers were injected with, made from the model's shape alone.

A killed process leaves its folder behind, in memory. The next one on the machine removes it: the
folder holds a lock that the kernel releases when its owner dies, which also holds between
containers that share memory but can't see each other's processes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sapo_vl.errors import ConfigError
from sapo_vl.model import lora
from sapo_vl.runs.files import disk_full_guard
from sapo_vl.runs.lock import LOCK_FILE, FolderLock

if TYPE_CHECKING:
    from sapo_vl.config.sections import ModelConfig
    from sapo_vl.model.assets import ModelAssets

SHARED_MEMORY = Path("/dev/shm")

PREFIX = "sapo_vl-adapter-"


def adapter_settings(assets: ModelAssets, model: ModelConfig) -> Any:
    """Return PEFT's settings of model.lora's adapter, made from the model's shape alone."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(assets.config)
    return lora.peft_settings(module, model.lora, model.freeze)


def adapter_options(settings: Any) -> dict[str, Any]:
    """Return vLLM's engine arguments for one adapter with these settings."""
    return {
        "enable_lora": True,
        "max_lora_rank": settings.r,
        "max_loras": 1,
        "max_cpu_loras": 1,
        "enable_tower_connector_lora": "visual" in settings.target_modules,
    }


class AdapterFolder:
    """The folder of one engine's current adapter."""

    def __init__(self, assets: ModelAssets, model: ModelConfig) -> None:
        """Make an empty folder, in memory where the system has a file system for it."""
        self._settings = adapter_settings(assets, model)
        self._settings.base_model_name_or_path = assets.path
        self._root, self._lock = make_root()
        self._version = 0

    def engine_options(self) -> dict[str, Any]:
        """Return vLLM's engine arguments for one adapter of this shape."""
        return adapter_options(self._settings)

    def write(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Path:
        """Write the next version, drop the last, and return its folder.

        Raises SetupError when the memory is full: two versions are there for a moment.
        """
        self._version += 1
        folder = self._root / f"v{self._version}"
        with disk_full_guard("the sampler's adapter (a container may need --shm-size)", self._root):
            lora.write_adapter(folder, weights, self._settings)
        shutil.rmtree(self._root / f"v{self._version - 1}", ignore_errors=True)
        return folder

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock.close()


def make_root() -> tuple[Path, FolderLock]:
    """Return a new folder, locked for this process, after those of dead processes are removed.

    It is in shared memory where the system has that. It gets its name when it is locked: a folder
    of that name without a lock has no owner.
    """
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    if place is not None:
        _remove_stale(place)
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}{os.getpid()}-", dir=place))
    lock = FolderLock(new, "the adapter's folder")
    return new.rename(new.with_name(new.name.removeprefix("."))), lock


def _remove_stale(place: Path) -> None:
    """Remove the adapters' folders that nobody holds; others, and other users', stay."""
    for folder in place.glob(f"{PREFIX}*"):
        if not (folder / LOCK_FILE).is_file():
            continue
        try:
            lock = FolderLock(folder, "the adapter's folder")
        except (ConfigError, OSError):  # in use, removed meanwhile, or another user's
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
