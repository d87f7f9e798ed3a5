"""Refuses, before anything is loaded, a run that this machine's memory or disk can't hold."""

from __future__ import annotations

from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError
from sapo_vl.runs.files import user_path
from sapo_vl.system import distributed
from sapo_vl.training.plan import hardware
from sapo_vl.training.plan.fit import Plan, make_plan
from sapo_vl.training.plan.hardware import GIB, GPUS
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.shape import model_shape


def check_capacity(config: Config) -> None:
    """Compare what the run is certain to need with this machine's free memory and disk.

    Host memory: the states that stay, of all ranks of this machine. Disk: run.dir's checkpoints and
    final models, less what an earlier start has written there.

    Raises:
        ConfigError: one is too small. Names the key to change.
    """
    module, _ = module_on_meta(config)
    ranks, here = distributed.world_size(), hardware.ranks_here()
    on_gpu = distributed.device().type == "cuda"
    target = (
        hardware.Hardware(GPUS[80], ranks, here) if on_gpu else hardware.cpu(ranks, here)
    )  # the card's size doesn't matter here
    found = shortages(make_plan(config, model_shape(module), target))
    if found:
        raise ConfigError(found[0])


def shortages(plan: Plan) -> list[str]:
    """Return, in words, what this machine lacks in host memory and on the disk of run.dir."""
    return [text for text in (memory_shortage(plan), disk_shortage(plan)) if text]


def memory_shortage(plan: Plan) -> str:
    """Return, in words, what this machine lacks in host memory; empty where it has enough."""
    free, need = hardware.free_memory(), plan.host.states + plan.host.engine
    if free is None or need <= free:
        return ""
    config, ranks = plan.config, plan.hardware.ranks_here
    if plan.hardware.is_cpu:
        key, cure = f"model.path={config.model.path}", "name a smaller model, or train on GPUs"
    else:
        offloads = {
            "learner.offload_optimizer": config.learner.offload_optimizer,
            "learner.offload_parameters": config.learner.offload_parameters,
            "learner.offload_while_sampling": config.learner.offload_while_sampling,
        }
        name = next((name for name, value in offloads.items() if value), None)
        key, cure = f"{name}=true", "set it to false, or use a machine with more memory"
        if name is None:  # the base of an engine that sleeps
            key, cure = f"model.lora.rank={config.model.lora.rank}", "use one with more memory"
    return (
        f"{key}: {ranks} rank(s) on this machine keep {in_words(need)} in its memory, of which "
        f"{in_words(free)} are free: {cure}"
    )


def disk_shortage(plan: Plan) -> str:
    """Return, in words, what the disk of run.dir lacks; empty where it has enough.

    Raises SetupError where run.dir can't be looked at.
    """
    config, space = plan.config, plan.disk
    with user_path("run.dir", config.run.dir):
        written, free = _written(config.run.dir), hardware.free_disk(config.run.dir)
    need = space.total - written
    if need <= free:
        return ""
    keep = config.checkpoint.keep
    fewer = f"lower checkpoint.keep={keep}, or " if keep > 1 else ""
    return (
        f"run.dir={config.run.dir}: {in_words(free)} are free on its disk, and "
        f"{space.kept} checkpoints of {in_words(space.checkpoint)} (checkpoint.keep={keep} and "
        f"one being written) with the final model need {in_words(max(need, 0))}"
        f"{' more' if written else ''}: {fewer}name a folder on a larger disk"
    )


def in_words(size: float) -> str:
    """Return a number of bytes in GiB, or in MiB below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def _written(run_dir: Path) -> int:
    """Return the bytes of checkpoints and models that an earlier start left in `run_dir`."""
    folders = [
        run_dir / "checkpoints",
        run_dir / "final",
        run_dir / "warmup" / "checkpoints",
        run_dir / "warmup" / "final",
    ]
    return sum(
        file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()
    )
