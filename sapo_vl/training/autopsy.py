"""When a run leaves an autopsy behind: stalls, alarms, non-finite gradients, ruined weights.

bundle.py has the folder's form and replay.py runs its batch again. Rules for all of it: a run has
at most LIMIT bundles per cause; whatever goes wrong while one is written is printed and the run
goes on; the watchdog's thread uses no collective and no device.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sapo_vl.errors import RunError, printable
from sapo_vl.learner.engine import Learner, total_weight
from sapo_vl.learner.examine import Examination, examine, summary
from sapo_vl.model import lora
from sapo_vl.runs import signals
from sapo_vl.runs.files import read_json
from sapo_vl.runs.folder import Run
from sapo_vl.schema import RolloutGroup
from sapo_vl.system import distributed
from sapo_vl.training import bundle, checkpoint
from sapo_vl.training.bundle import Content, Manifest
from sapo_vl.training.parity import ParityError, WeightsError

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Step, Trainer

LIMIT = 3
"""Bundles per cause: later ones seldom tell more than the first."""

LARGEST_MODEL = 2 * 2**30
"""Bytes of weights that are copied into a bundle. For larger models the checkpoint has to do."""

SHOWN = 8
"""Records that a printed line names."""


def watch(run: Run, trainer: Trainer | None = None) -> None:
    """Have the watchdog write a bundle before it ends the run."""

    def stalled(minutes: float) -> None:
        said = f"no progress for {minutes:g} minutes (run.stall_minutes)"
        path = at_stall(run, trainer, said)
        print(f"sapo-vl: {said}; {_pointer(path)}", file=signals.error_stream(), flush=True)

    signals.on_stall(stalled)


def _pointer(path: Path | None) -> str:
    """Say where a bundle is, None where there is none, and how to run its batch again."""
    if path is None:
        return f"{LIMIT} autopsies of this cause are there already"
    replay = f": {bundle.command(path)}" if (path / "batch.npz").exists() else ""
    return f"autopsy in {path}{replay}"


def at_stall(run: Run, trainer: Trainer | None, message: str) -> Path | None:
    """Write a bundle of what this process was working on; return its folder, None at the limit.

    For the watchdog's thread. The rollouts are those of the mini-batch in progress, or of the step
    before its first; while sampling there are none, and the manifest names the records.
    """
    root = run.dir / bundle.FOLDER
    if len(_written(root, "stall")) >= LIMIT:
        return None
    step = trainer.open_step if trainer is not None else None
    manifest = _manifest(run, "stall", message, step)
    groups: Sequence[RolloutGroup] = ()
    if step is not None and step.mini_batch is not None:
        groups = bundle.groups_of(step.mini_batch)
        _name_mini_batch(manifest, run, step)
    elif step is not None and step.batch is not None:
        groups = step.batch.groups
    if groups:
        manifest.records = _records(groups)
    else:
        manifest.records = read_json(run.last_batch) or []
    if trainer is not None:
        _name_checkpoint(trainer, manifest)
    path = bundle.Name(manifest.step, "stall", _suffix()).free(root)
    bundle.write_bundle(path, Content(run.dir, manifest, groups))
    return path


def at_bad_gradient(trainer: Trainer, step: Step) -> str:
    """Pass over the mini-batch again and write bundles; return what to print. Collective.

    Rank 0 writes one, and every rank whose own loss or gradients are not finite.
    """
    rollouts = step.mini_batch
    assert rollouts is not None, "a bad gradient outside of a mini-batch"
    if not _room(trainer, "nonfinite"):
        records = ", ".join(_records(bundle.groups_of(rollouts))[:SHOWN])
        return f"{_pointer(None)}; records: {printable(records)}"
    denominator = total_weight(rollouts, trainer.objective)
    found = examine(trainer.learner, rollouts, trainer.objective, denominator)
    words = found.culprit or "this rank's share is finite"
    message = f"the gradient is not finite; first: {words}"
    manifest = _manifest(trainer.run, "nonfinite", message, step)
    _name_mini_batch(manifest, trainer.run, step)
    manifest.denominator = denominator
    groups = bundle.groups_of(rollouts)
    manifest.records = _records(groups)
    content = Content(trainer.run.dir, manifest, groups, summary(found))
    path = _write(trainer, content, wanted=not found.finite)
    return _line(found, path)


def _line(found: Examination, path: Path | None) -> str:
    """Return the line of the first rank with a fault, or rank 0's. Collective."""
    bad = [] if found.finite else [(found.culprit, path)]
    bad, own = distributed.all_gather(bad), distributed.all_gather([path])
    culprit, place = bad[0] if bad else ("a second pass was finite on every rank", own[0])
    return f"first: {printable(culprit)}" + ("" if place is None else f"; {_pointer(place)}")


def at_alarm(trainer: Trainer, step: Step, message: str) -> None:
    """Write the bundle of a collapse alarm: the whole step's rollouts. Collective."""
    if not _room(trainer, "collapse"):
        return
    assert step.batch is not None, "an alarm without rollouts"
    groups = step.batch.groups
    manifest = _manifest(trainer.run, "collapse", message, step)
    manifest.records = _records(groups)
    content = Content(trainer.run.dir, manifest, groups)
    path = _write(trainer, content, wanted=False)
    if path is not None:
        trainer.log(_pointer(path))


@contextmanager
def on_error(trainer: Trainer, step: Step) -> Iterator[None]:
    """Write a bundle where the block ends with an error of parity or of the weights.

    Each rank that raises writes its own, without a collective: ruined shards may be one rank's.
    """
    try:
        yield
    except (ParityError, WeightsError) as error:
        cause = "parity" if isinstance(error, ParityError) else "weights"
        with _guard():
            _at_error(trainer, step, cause, error)
        raise


def _at_error(trainer: Trainer, step: Step, cause: str, error: RunError) -> None:
    root = trainer.run.dir / bundle.FOLDER
    if len(_written(root, cause)) >= LIMIT:
        return
    groups = step.batch.groups if step.batch is not None else []
    manifest = _manifest(trainer.run, cause, str(error), step)
    manifest.records = _records(groups)
    _name_checkpoint(trainer, manifest)
    path = bundle.Name(manifest.step, cause, _suffix()).free(root)
    bundle.write_bundle(path, Content(trainer.run.dir, manifest, groups))
    if distributed.rank() == 0:
        trainer.log(_pointer(path))
    else:
        print(_pointer(path), flush=True)


def _manifest(run: Run, cause: str, message: str, step: Step | None) -> Manifest:
    manifest = Manifest(
        cause=cause,
        message=message,
        step=step.number + 1 if step is not None else 0,
        rank=distributed.rank(),
        ranks=distributed.world_size(),
        seed=run.config.run.seed,
    )
    if step is not None:
        manifest.lr = step.lr
        manifest.mini_batches = run.config.algorithm.num_mini_batches
    return manifest


def _name_mini_batch(manifest: Manifest, run: Run, step: Step) -> None:
    """Note that the batch is the mini-batch in progress, not the whole step's."""
    manifest.mini_batch = step.position + 1
    recomputed = run.config.algorithm.staleness == "recompute"
    manifest.on_policy = recomputed and step.position == 0


def _records(groups: Sequence[RolloutGroup]) -> list[str]:
    return list(dict.fromkeys(group.prompt.sample.id for group in groups))


def _suffix() -> str:
    return f"-rank{distributed.rank()}" if distributed.world_size() > 1 else ""


def _written(root: Path, cause: str) -> list[Path]:
    """Return this rank's bundles of a cause, those from before a resume included."""
    return [p for p in root.glob(f"step_*-{cause}*") if p.name.endswith(_suffix())]


def _room(trainer: Trainer, cause: str) -> bool:
    """Whether rank 0 may write another bundle. Collective."""
    count = len(_written(trainer.run.dir / bundle.FOLDER, cause))
    return distributed.broadcast(float(count < LIMIT)) > 0


def _write(trainer: Trainer, content: Content, *, wanted: bool) -> Path | None:
    """Write the bundle on rank 0 and where it is `wanted`; None elsewhere. Collective."""
    root, manifest = trainer.run.dir / bundle.FOLDER, content.manifest
    name = bundle.Name(manifest.step, manifest.cause, _suffix())
    number = int(distributed.broadcast(name.free_number(root)))
    path = name.path(root, number)
    saved = _save_weights(trainer, root)
    writes = wanted or distributed.rank() == 0
    if writes:
        with _guard():
            if saved is None:
                _name_checkpoint(trainer, manifest)
            elif distributed.rank() != 0:
                first = bundle.Name(manifest.step, manifest.cause, "-rank0")
                manifest.weights = f"../{first.path(root, number).name}/{saved.name}"
            bundle.write_bundle(path, content, saved if distributed.rank() == 0 else None)
    if saved is not None and distributed.rank() == 0:
        shutil.rmtree(saved.parent, ignore_errors=True)
    distributed.barrier()
    return path if writes and path.exists() else None


def _save_weights(trainer: Trainer, root: Path) -> Path | None:
    """Write the learner's weights below `root` if they are small; None if not. Collective.

    With model.lora these are the adapter's. Rank 0 has the files.
    """
    learner = trainer.learner
    adapters = bool(trainer.config.model.lora.rank)
    size = _bytes_of(learner, trained_only=adapters)
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free * bundle.FREE_SHARE
    if not distributed.broadcast(float(size <= min(LARGEST_MODEL, free))):
        return None
    out = root / ".weights" / ("adapter" if adapters else "model")
    done = 0.0
    with _guard():
        if adapters:
            _write_adapter(learner, out)
        else:
            learner.export(out)
        done = 1.0
    return out if distributed.broadcast(done) else None


def _write_adapter(learner: Learner, out: Path) -> None:
    if distributed.rank() == 0:
        settings = lora.settings_of(learner.model, learner.assets.path)
        lora.write_adapter(out, learner.adapter(), settings)
    else:
        for _ in learner.adapter():
            pass


def _bytes_of(learner: Learner, *, trained_only: bool) -> int:
    """Return the bytes of the model's whole weights, ZeRO-3's shards counted in full."""
    return sum(
        int(getattr(p, "ds_numel", p.numel())) * p.element_size()
        for p in learner.model.parameters()
        if p.requires_grad or not trained_only
    )


def _name_checkpoint(trainer: Trainer, manifest: Manifest) -> None:
    """Name the newest checkpoint in the manifest, and pin it so that it outlives newer ones."""
    newest = checkpoint.latest(trainer.checkpoints)
    if newest is None:
        return
    (newest / checkpoint.KEEP).touch()
    manifest.checkpoint = newest.name
    manifest.steps_since = manifest.step - 1 - checkpoint.step_of(newest)


@contextmanager
def _guard() -> Iterator[None]:
    """Print what goes wrong while a bundle is written: the run itself is none the worse for it."""
    try:
        yield
    except Exception as error:
        print(f"an autopsy could not be written: {type(error).__name__}: {printable(error)}")
