"""`sapo-vl export RUN --out DIR`: a checkpoint as a plain Hugging Face folder.

Use as many ranks as the run had. Without --checkpoint, the newest one is exported.
"""

from __future__ import annotations

from pathlib import Path

from sapo_vl.config import Config, load
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import open_assets
from sapo_vl.training import checkpoint
from sapo_vl.training.setup import initial_model


def main(run_dir: Path, out: Path, name: str | None) -> None:
    """Write the folder. Raises ConfigError or DataError for a wrong run, checkpoint or `out`."""
    if not (run_dir / "config.yaml").exists():
        raise ConfigError(f"{run_dir} is not a run's folder: config.yaml is missing")
    if out.exists():
        raise DataError(f"--out {out} exists already; name another folder")
    root = run_dir / "checkpoints"
    path = checkpoint.latest(root) if name is None else root / name
    if path is None or not path.exists():
        known = ", ".join(sorted(p.name for p in root.glob("step_*"))) or "none"
        raise ConfigError(f"{run_dir} has no checkpoint {name or ''}; it has: {known}")
    config = load(run_dir / "config.yaml", [f"run.dir={run_dir}"])
    learner = Learner(config, open_assets(start_folder(run_dir, config)))
    checkpoint.load(path, learner)
    learner.export(out)
    print(f"wrote {path.name} to {out}")


def start_folder(run_dir: Path, config: Config) -> Path:
    """Return the folder that the run's SAPO phase started from."""
    if config.sft.steps > 0:
        return run_dir / "warmup" / "final"
    return initial_model(config)
