"""Checkpoints, complete or absent: written under a temporary name, flushed, then renamed.

    CHECKPOINTS/step_000020/            after 20 whole steps
    CHECKPOINTS/step_000020+2/          after 20 steps and 2 mini-batches of the next
        learner/...                     DeepSpeed: model and optimizer of all ranks
        rank_0.npz                      TrainState and RNG states (state_file.py)
        manifest.json                   the files with their checksums, written last (manifest.py)

`kill -9` at any moment leaves the last complete checkpoint: `latest` considers final names only,
and old ones are renamed before they are deleted. Before a run goes on, `set_aside_damaged` renames
checkpoints whose files are not what was written.
"""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sapo_vl.errors import DataError, SetupError
from sapo_vl.runs.files import disk_full_guard, sync_to_disk
from sapo_vl.system import distributed
from sapo_vl.training.manifest import damage, read_manifest, write_manifest
from sapo_vl.training.state_file import read_state, write_state

if TYPE_CHECKING:
    from sapo_vl.learner.engine import Learner

KEEP = "keep"
"""A file of this name pins the checkpoint whose folder it is in: it is never deleted."""

BEST = "best"
"""Another pin, of the best checkpoint so far (best.py): `mark_best` moves it."""

DAMAGED = "damaged-"
"""Put before the name of a checkpoint that is set aside."""

_NAME = re.compile(r"step_(\d{6,})(?:\+(\d+))?")


@dataclass(slots=True)
class TrainState:
    """Progress of a training phase: all that a resume needs besides the learner's own state."""

    step: int = 0  # completed steps
    mini_batch: int = 0  # completed mini-batches of the step in progress
    cursor: int = 0  # prompts drawn so far, over all epochs
    bad_steps: int = 0  # consecutive non-finite optimizer steps
    batch: dict[str, Any] | None = None  # mid-step: the rollout batch's state_dict
    ahead: list[dict[str, Any]] = field(default_factory=list)  # RolloutQueue's state_dict
    pools: dict[str, Any] | None = None  # DifficultyPools' state_dict
    totals: dict[str, float] = field(default_factory=dict)  # mid-step: telemetry.group_sums
    stats: list[dict[str, float]] = field(default_factory=list)  # mid-step: per mini-batch

    @property
    def name(self) -> str:
        """The checkpoint's folder name."""
        return f"step_{self.step:06d}" + (f"+{self.mini_batch}" if self.mini_batch else "")


def save(root: Path, learner: Learner, state: TrainState, keep: int) -> Path:
    """Write a checkpoint below `root`, keeping the `keep` newest; every rank must call it.

    Raises SetupError when the disk is full; older checkpoints stay as they are.
    """
    final = root / state.name
    partial = root / f".{state.name}.partial"
    if distributed.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.barrier()
    own = partial / f"rank_{distributed.rank()}.npz"
    try:
        with disk_full_guard("a checkpoint", root):
            learner.save(partial)
            progress = {f.name: getattr(state, f.name) for f in fields(state)}
            write_state(own, {"state": progress, "rng": _rng_state()})
            distributed.barrier()
            write_manifest(partial)
    except SetupError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    distributed.barrier()
    if distributed.rank() == 0:
        _discard(final)
        partial.rename(final)
        sync_to_disk(root)
        for old in _listed(root)[:-keep]:
            if not (old / KEEP).exists() and not (old / BEST).exists():
                _discard(old)
        for torn in root.glob(".step_*"):  # left by processes killed while writing or deleting
            shutil.rmtree(torn, ignore_errors=True)
    distributed.barrier()
    return final


def pin_last_before(root: Path, step: int) -> Path | None:
    """Pin the newest checkpoint from before `step` and return it; None if there is none."""
    older = [path for path in _listed(root) if step_of(path) < step]
    if not older:
        return None
    (older[-1] / KEEP).touch()
    return older[-1]


def mark_best(root: Path, step: int) -> None:
    """Pin the checkpoint after `step` whole steps as the best one, in place of an earlier best.

    The earlier one is deleted by the next `save` unless it is among the newest or pinned by KEEP.
    Without a checkpoint of that step nothing changes.
    """
    best = root / TrainState(step).name
    if not best.is_dir():
        return
    (best / BEST).touch()
    for path in _listed(root):
        if path != best:
            (path / BEST).unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """Return the whole steps that a checkpoint's folder, named step_000020+2, covers."""
    return int(path.name.removeprefix("step_").split("+")[0])


def latest(root: Path) -> Path | None:
    """Return the newest complete checkpoint below `root`, or None."""
    checkpoints = _listed(root)
    return checkpoints[-1] if checkpoints else None


def set_aside_damaged(run_dir: Path) -> None:
    """Rename a run's newest checkpoints that are not whole to damaged-step_..; say which and why.

    Of the SAPO phase and of the warm-up; from the newest to the first whole one. Every rank must
    call it. Nothing is deleted.

    Raises DataError when none of several checkpoints is whole.
    """
    roots = [run_dir / "checkpoints"]
    if not (run_dir / "warmup" / "final").exists():
        roots.append(run_dir / "warmup" / "checkpoints")
    for root in roots:
        found = _listed(root)
        for path in reversed(found):
            own = damage(path, rank=distributed.rank(), ranks=distributed.world_size())
            reason = next(filter(None, distributed.all_gather([own])), "")
            if not reason:
                break
            distributed.barrier()
            if distributed.rank() == 0:
                _set_aside(path)
            distributed.print0(f"{path} is damaged ({reason}): set aside as {DAMAGED}{path.name}")
            distributed.barrier()
        else:
            if found:
                raise DataError(
                    f"no checkpoint in {root} is whole, they are set aside as {DAMAGED}step_..: "
                    "put a good copy back, or run the same command again to start over"
                )


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint, and what is wrong with newer ones; changes nothing."""
    faults: list[str] = []
    for path in reversed(_listed(root)):
        reason = damage(path)
        if not reason:
            return path, faults
        faults.append(f"{path} is damaged ({reason})")
    return None, faults


def load(path: Path, learner: Learner) -> TrainState:
    """Restore learner and RNG states and return the TrainState; every rank must call it.

    Raises DataError when the checkpoint was written by a different number of ranks, or a file of
    it can't be read.
    """
    try:
        ranks = int(read_manifest(path)["ranks"])
    except ValueError as error:
        raise DataError(f"checkpoint {path}: {error}") from error
    if ranks != distributed.world_size():
        raise DataError(
            f"checkpoint {path} was written by {ranks} ranks and this run has "
            f"{distributed.world_size()}: set SAPO_RANKS={ranks}"
        )
    learner.load(path)
    own = path / f"rank_{distributed.rank()}.npz"
    try:
        saved = read_state(own)
        _set_rng_state(saved["rng"])
        return TrainState(**saved["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{own} is damaged: {error}") from error


def _listed(root: Path) -> list[Path]:
    matches = [(m, p) for p in root.glob("step_*") if (m := _NAME.fullmatch(p.name))]
    return [p for m, p in sorted(matches, key=lambda x: (int(x[0][1]), int(x[0][2] or 0)))]


def _set_aside(path: Path) -> None:
    target, number = path.with_name(DAMAGED + path.name), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{DAMAGED}{path.name}-{number}")
    path.rename(target)


def _discard(path: Path) -> None:
    if path.exists():
        dying = path.with_name(f".{path.name}.old")
        shutil.rmtree(dying, ignore_errors=True)
        path.rename(dying)
        shutil.rmtree(dying)


def _rng_state() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
