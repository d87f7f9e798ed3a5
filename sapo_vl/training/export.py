"""`sapo-vl export RUN --out DIR`: a checkpoint as a plain Hugging Face folder.

One process, whatever number of ranks the run had: weights come from the checkpoint's files, the
rest from the folder that training started from. Without --checkpoint, the newest whole one is
exported. Nothing in the run's folder is executed: see learner/saved_weights.py.
"""

from __future__ import annotations

from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.learner.saved_weights import whole_weights
from sapo_vl.model.assets import open_assets
from sapo_vl.model.save import save_model
from sapo_vl.model.weights import DTYPES
from sapo_vl.runs.files import disk_full_guard, user_path
from sapo_vl.runs.record import saved_config
from sapo_vl.system import distributed
from sapo_vl.training import checkpoint
from sapo_vl.training.manifest import damage
from sapo_vl.training.setup import initial_model


def main(run_dir: Path, out: Path, name: str | None) -> None:
    """Write the folder. Raises ConfigError or DataError for a wrong run, checkpoint or `out`."""
    if distributed.rank() != 0:
        return
    config = saved_config(run_dir)
    if out.exists():
        raise DataError(f"--out {out} exists already; name another folder")
    path = _chosen(run_dir, name)
    assets = open_assets(start_folder(run_dir, config))
    dtype = DTYPES[config.model.dtype]
    weights = whole_weights(path / "learner", assets.family, dtype)
    with user_path("--out", out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_guard("the model", out.parent):
            save_model(out, assets.folder, weights)
    print(f"wrote {path.name} to {out}")


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


def start_folder(run_dir: Path, config: Config) -> Path:
    """Return the folder that the run's SAPO phase started from."""
    if config.sft.steps > 0:
        return run_dir / "warmup" / "final"
    return initial_model(config)
