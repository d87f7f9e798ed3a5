"""Host memory of a machine's ranks, and the disk of a run's folder."""

from __future__ import annotations

from dataclasses import dataclass

from sapo_vl.config import Config
from sapo_vl.training.plan.hardware import GIB, Hardware
from sapo_vl.training.plan.learner import LearnerStates, weight_bytes
from sapo_vl.training.plan.shape import ModelShape

PROCESS = 4.0 * GIB
PROCESS_CPU = 1.0 * GIB
"""A rank's process with torch, CUDA and vLLM, and without CUDA (estimates)."""

DISK_SPEED = 3e9
"""Bytes per second to a local NVMe disk, all ranks together (estimate)."""

PINNED = 4 / 3
"""Host memory per byte of a sleeping engine: PyTorch rounds each pinned buffer up to a power of
two, and most of vLLM's merged matrices hold 3 x 2^n bytes (estimate)."""

OVERHEAD = 100_000
"""Bytes that each file of a checkpoint adds for names, shapes and scripts."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of all ranks of one machine together."""

    states: float  # offloaded, or on a CPU the learner's own; they stay
    engine: float  # of engines without a GPU; with adapters, a GPU's base weights as it sleeps
    processes: float
    loading: float  # for a moment at the start: every rank reads all weights

    @property
    def running(self) -> float:
        """During training."""
        return self.states + self.engine + self.processes

    @property
    def peak(self) -> float:
        """The larger of loading and running."""
        return max(self.processes + self.loading, self.running)


def host_memory(
    shape: ModelShape,
    config: Config,
    hardware: Hardware,
    states: LearnerStates,
    engine: float,
) -> HostMemory:
    """Return the host memory of one machine. `engine` is the bytes of a CPU rank's engine.

    A rank loads the weights on the CPU, whatever the ZeRO stage, before it moves or splits them.
    Experts, whose matrices are joined as they are read, exist twice while that happens.
    """
    ranks = hardware.ranks_here
    on_device = states.resting + states.gradients if hardware.is_cpu else 0.0
    b = weight_bytes(config)
    joined = sum(layer.parameters for layer in shape.layers if layer.experts)
    return HostMemory(
        states=ranks * (states.host + on_device),
        engine=ranks * _engine(shape, config, hardware, engine),
        processes=ranks * (PROCESS_CPU if hardware.is_cpu else PROCESS),
        loading=ranks * b * (shape.parameters + joined / max(1, len(shape.layers))),
    )


def _engine(shape: ModelShape, config: Config, hardware: Hardware, engine: float) -> float:
    """Return the host memory of a rank's engine: all of it on a CPU, else what sleeps there."""
    if hardware.is_cpu:
        return engine
    return PINNED * engine_base(shape, config)


def engine_base(shape: ModelShape, config: Config) -> float:
    """Return the bytes of a rank's engine that wait in host memory while it sleeps at level 1.

    Those are its frozen weights, with adapters; without, it sleeps at level 2 and keeps nothing.
    """
    if config.model.lora.rank == 0:
        return 0.0
    base = shape.parameters - shape.trained
    return weight_bytes(config) * base / config.generator.tensor_parallel


@dataclass(frozen=True)
class Disk:
    """Bytes below run.dir."""

    checkpoint: float
    final: float  # one model folder; others after a warm-up and of the best checkpoint
    models: int
    kept: int  # checkpoints, with the best, the one being written and what the warm-up leaves

    @property
    def total(self) -> float:
        """At the worst moment: `checkpoint.keep` whole ones and the next being written."""
        return self.kept * self.checkpoint + self.models * self.final

    @property
    def seconds(self) -> float:
        """To write a checkpoint (estimate)."""
        return self.checkpoint / DISK_SPEED


def disk(shape: ModelShape, config: Config, ranks: int) -> Disk:
    """Return what a run writes: DeepSpeed's files of all ranks, and the final models."""
    b, stage = weight_bytes(config), config.learner.zero_stage
    # Under ZeRO-3 trained weights are in the optimizer's files only, as float32 copies.
    weights: float = b * (shape.parameters - (shape.trained if stage == 3 else 0))
    if config.model.lora.rank:  # the frozen weights stay in the folder that they came from
        weights = 0.0 if stage == 3 else b * shape.trained
    optimizer = (8 if stage == 0 and b == 4 else 12) * shape.trained
    checkpoints = config.checkpoint
    warm_up = min(checkpoints.keep, config.sft.steps // checkpoints.sft_every)
    files = 2 * ranks if stage == 3 else 1 + (ranks if stage else 0)
    return Disk(
        checkpoint=weights + optimizer + files * OVERHEAD,
        final=b * shape.parameters,
        models=1 + bool(config.sft.steps) + (checkpoints.best is not None),
        kept=checkpoints.keep + 1 + warm_up + (checkpoints.best is not None),
    )
