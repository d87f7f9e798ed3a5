"""What a run's folder says about its configuration, and how --resume may change it.

    RUN/config.yaml                 the configuration that the next step uses
    RUN/config-step_000004.yaml     the one used up to step 4, when a resume then changed it

Keys in `FIXED` can't be changed: the checkpoint, or a figure that is compared with an earlier one,
is tied to them. Any other key can, and is recorded with the step from which it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapo_vl.config import Config, absolute, dump, load, to_yaml
from sapo_vl.config.keys import last_named, read_sources
from sapo_vl.errors import ConfigError
from sapo_vl.plugins import absolute_plugin
from sapo_vl.runs.files import atomic_write, write_text

END = "..."
"""YAML's end of a document, the last line of config.yaml; without it the file was cut off."""

OPTIMIZER = "the checkpoint's optimizer state has another form"
ORDER = "the order of the prompts would be another one"
FIGURES = "figures before and after training would be of other problems"

FIXED: Mapping[str, str] = {
    "objective": "the advantages and statistics of earlier steps are of another objective",
    "run.seed": ORDER,
    "model.dtype": OPTIMIZER,
    "model.freeze": OPTIMIZER,
    "model.lora": OPTIMIZER,
    "learner.zero_stage": OPTIMIZER,
    "learner.offload_optimizer": OPTIMIZER,
    "learner.offload_parameters": OPTIMIZER,
    "data.train_split": ORDER,
    "data.rest_after": ORDER,
    "data.synthetic_train": ORDER,
    "data.synthetic_test": FIGURES,
    "data.eval_split": FIGURES,
}
"""Key -> why a resumed run can't change it."""

LOCATIONS = ("run.dir", "data.path", "sft.data", "model.path")
"""Keys that say where something is. It may be moved: training/inputs.py compares the content."""

_STEP = re.compile(r"step_(\d{6,})(?:\+\d+)?")


def saved_config(run_dir: Path) -> Config:
    """Return the configuration of the run in `run_dir`, with that folder as its run.dir.

    Raises ConfigError when the folder holds no run, or its config.yaml is damaged.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not a run's folder: config.yaml is missing")
    _check_whole(path)
    return load(path, [f"run.dir={run_dir}"])


def resumed_config(run_dir: Path, file: Path | None, overrides: list[str]) -> Config:
    """Return the configuration that a resumed run goes on with: saved < `file` < overrides.

    Raises ConfigError when the run can't be resumed, or a key in `FIXED` would change.
    """
    saved = saved_config(run_dir)
    given = read_sources(Config, [file] if file else [], overrides)
    objective = last_named(given, "objective")
    if objective is not None and absolute_plugin(str(objective)) != saved.objective:
        raise _refusal("objective", saved.objective, objective)
    new = load(run_dir / "config.yaml", [*overrides, f"run.dir={run_dir}"], over=file)
    changed = changes(saved, new)
    for key, (old, value) in changed.items():
        if key in FIXED:
            raise _refusal(key, old, value)
        if key.startswith("sft.") and (run_dir / "warmup" / "final").exists():
            raise ConfigError(f"{key}={value}: the warm-up of this run is finished ({key}={old})")
    done = steps_done(run_dir)
    if "rollout.steps" in changed and new.rollout.steps < done:
        raise ConfigError(f"rollout.steps={new.rollout.steps}: the run has done {done} already")
    return new


def _refusal(key: str, old: Any, new: Any) -> ConfigError:
    return ConfigError(
        f"{key}={new} can't be set with --resume, the run was started with {key}={old}: "
        f"{FIXED[key]}. Start another run"
    )


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return {dotted key: (old, new)} of all keys that differ, places compared as absolute."""
    before, after = (flat(dump(absolute(config))) for config in (old, new))
    keys = [key for key in dict.fromkeys([*before, *after]) if key not in LOCATIONS]
    return {
        key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration's tree as {dotted key: value}, two levels deep."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict) and prefix == "" and key != "judge"
        found |= flat(value, f"{key}.") if is_section else {f"{prefix}{key}": value}
    return found


def record_config(config: Config, *, resume: bool) -> list[str]:
    """Write RUN/config.yaml and return how it changes a resumed run, each as `key: old -> new`.

    A different file of this name is kept beside it. For rank 0.
    """
    path, lines = config.run.dir / "config.yaml", []
    text = f"{to_yaml(absolute(config))}{END}\n"
    if resume:
        saved = saved_config(config.run.dir)
        lines = [f"{key}: {old} -> {new}" for key, (old, new) in changes(saved, config).items()]
    if path.exists() and path.read_bytes() != text.encode():
        _keep(path, steps_done(config.run.dir))
    write_text(path, text)
    return lines


def steps_done(run_dir: Path) -> int:
    """Return the number of whole steps that the newest checkpoint covers, 0 without one."""
    names = (path.name for path in (run_dir / "checkpoints").glob("step_*"))
    return max((int(m[1]) for name in names if (m := _STEP.fullmatch(name))), default=0)


def _keep(path: Path, step: int) -> None:
    """Copy config.yaml to config-step_000004.yaml, or with a number after it."""
    target, number = path.with_name(f"config-step_{step:06d}.yaml"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"config-step_{step:06d}-{number}.yaml")
    with atomic_write(target) as partial:
        partial.write_bytes(path.read_bytes())


def _check_whole(path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    if END not in lines:
        kept = sorted(p.name for p in path.parent.glob("config-step_*.yaml"))
        hint = f"; an earlier one is {kept[-1]}" if kept else ""
        raise ConfigError(f"{path} is empty or cut off: its last line is not '{END}'{hint}")
