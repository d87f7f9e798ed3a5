"""`sapo-vl export RUN --out DIR`: a checkpoint as a plain Hugging Face folder.

One process, whatever number of ranks the run had: weights come from the checkpoint's files, the
rest from the folder that training started from. A checkpoint of adapters is merged into that
folder's weights, in float32 before they are rounded. Without --checkpoint, the newest whole one is
exported. Nothing in the run's folder is executed: see learner/saved_weights.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.learner.saved_weights import whole_weights
from sapo_vl.model import lora
from sapo_vl.model.assets import ModelAssets, open_assets
from sapo_vl.model.save import save_model
from sapo_vl.model.weights import DTYPES, load_weights
from sapo_vl.runs.files import disk_full_guard, user_path
from sapo_vl.runs.record import saved_config
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint
from sapo_vl.training.manifest import damage
from sapo_vl.training.setup import sapo_start


def main(run_dir: Path, out: Path, name: str | None, *, adapter_only: bool = False) -> None:
    """Write the model's folder, merged with its adapter, or with `adapter_only` the adapter's own.

    Raises ConfigError or DataError for a wrong run, checkpoint or `out`.
    """
    if distributed.rank() != 0:
        return
    config = saved_config(run_dir)
    if adapter_only and not config.model.lora.rank:
        raise ConfigError(f"--adapter-only: {run_dir} trained all weights (model.lora.rank=0)")
    if out.exists():
        raise DataError(f"--out {out} exists already; name another folder")
    path = _chosen(run_dir, name)
    assets = open_assets(sapo_start(config).model)
    saved = whole_weights(path / "learner", assets.family, DTYPES[config.model.dtype])
    weights, adapter = _merged(saved, config, assets) if config.model.lora.rank else (saved, None)
    with user_path("--out", out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_guard("the adapter" if adapter_only else "the model", out.parent):
            if adapter_only:
                assert adapter is not None
                lora.write_adapter(out, *adapter)
            else:
                save_model(out, assets.folder, weights)
    print(f"wrote {path.name} to {out}")


def write_model(config: Config, path: Path, out: Path) -> None:
    """Write the model of the checkpoint `path` to `out`, as the learner exports its own.

    With adapters it is merged, and `out`/adapter holds them in PEFT's form. For rank 0. Raises
    DataError for a damaged checkpoint, SetupError when the disk is full.
    """
    if reason := damage(path):
        raise DataError(f"checkpoint {path} is damaged: {reason}")
    assets = open_assets(sapo_start(config).model)
    saved = whole_weights(path / "learner", assets.family, DTYPES[config.model.dtype])
    weights, adapter = _merged(saved, config, assets) if config.model.lora.rank else (saved, None)
    with disk_full_guard("the model", out.parent):
        save_model(out, assets.folder, weights)
        if adapter is not None:
            lora.write_adapter(out / "adapter", *adapter)


def _merged(
    saved: Iterable[tuple[str, Tensor]], config: Config, assets: ModelAssets
) -> tuple[Iterator[tuple[str, Tensor]], tuple[Iterator[tuple[str, Tensor]], Any]]:
    """Return the merged weights in checkpoint layout, and an adapter folder's tensors and settings.

    A checkpoint holds the adapter alone; the base is the folder that training started from.
    """
    adapters = dict(saved)
    model = load_weights(assets, config.model.dtype)
    settings = lora.peft_settings(model, config.model.lora, config.model.freeze)
    settings.base_model_name_or_path = assets.path
    to_checkpoint_layout = assets.family.to_checkpoint_layout
    base = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    weights = (
        (name, to_checkpoint_layout(name, tensor))
        for name, tensor in lora.merged(base, adapters, config.model.lora.scale)
    )
    named = ((lora.peft_name(name), tensor) for name, tensor in adapters.items())
    return weights, (named, settings)


def _chosen(run_dir: Path, name: str | None) -> Path:
    """Return the named checkpoint, or the newest whole one; say which newer ones are damaged."""
    root = run_dir / "checkpoints"
    faults: list[str] = []
    path: Path | None
    if name is None:
        path, faults = checkpoint.newest_whole(root)
        for fault in faults:
            print(f"{fault}: taking an older one")
    else:
        path = root / name
    if path is None or path.parent != root or not path.is_dir():
        known = ", ".join(sorted(p.name for p in root.glob("step_*"))) or "none"
        whole = "whole " if faults else ""
        raise ConfigError(f"{run_dir} has no {whole}checkpoint {name or ''}; it has: {known}")
    if name is not None and (reason := damage(path)):
        raise DataError(f"checkpoint {path} is damaged: {reason}")
    return path
