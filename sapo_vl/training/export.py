"""`sapo-vl export RUN --out DIR`: a checkpoint as a plain Hugging Face folder.

Run it with as many ranks as the run had. Without --checkpoint the newest one is taken.
"""

from __future__ import annotations

from pathlib import Path

from sapo_vl import config as configs
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import open_assets
from sapo_vl.training import checkpoint
from sapo_vl.training import setup as stages


def main(run_dir: Path, out: Path, name: str | None) -> None:
    """Write the folder. Raises ConfigError or DataError when run, checkpoint or `out` are wrong."""
    if not (run_dir / "config.yaml").exists():
        raise ConfigError(f"{run_dir} is not a run's folder: config.yaml is missing")
    if out.exists():
        raise DataError(f"--out {out} exists already; name another folder")
    root = run_dir / "checkpoints"
    found = checkpoint.latest(root) if name is None else root / name
    if found is None or not found.exists():
        there = ", ".join(sorted(p.name for p in root.glob("step_*"))) or "none"
        raise ConfigError(f"{run_dir} has no checkpoint {name or ''}; there: {there}")
    config = configs.load(run_dir / "config.yaml", [f"run.dir={run_dir}"])
    learner = Learner(config, open_assets(start_folder(run_dir, config)))
    checkpoint.load(found, learner)
    learner.export(out)
    print(f"wrote {found.name} to {out}")


def start_folder(run_dir: Path, config: configs.Config) -> Path:
    """Return the folder that the run's SAPO phase started from."""
    if config.sft.steps > 0:
        return run_dir / "warmup" / "final"
    return stages.starting_model(config)
