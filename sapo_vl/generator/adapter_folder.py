"""Adapters on their way into a running vLLM engine: PEFT folders in shared memory.

vLLM reads an adapter from a folder. Each version has a folder of its own, because the prefix cache
tells adapters apart by path; the one before it is removed. The folder's settings are those that the
learner's layers were injected with, made from the model's shape alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sapo_vl.model import lora

if TYPE_CHECKING:
    from sapo_vl.config.sections import ModelConfig
    from sapo_vl.model.assets import ModelAssets

SHARED_MEMORY = Path("/dev/shm")


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
        place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self._root = Path(tempfile.mkdtemp(prefix="sapo_vl-adapter-", dir=place))
        self._version = 0

    def engine_options(self) -> dict[str, Any]:
        """Return vLLM's engine arguments for one adapter of this shape."""
        return adapter_options(self._settings)

    def write(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Path:
        """Write the next version, drop the last, and return its folder."""
        self._version += 1
        folder = self._root / f"v{self._version}"
        lora.write_adapter(folder, weights, self._settings)
        shutil.rmtree(self._root / f"v{self._version - 1}", ignore_errors=True)
        return folder

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._root, ignore_errors=True)
