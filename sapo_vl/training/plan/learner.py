"""The learner's states as DeepSpeed holds them. Legend: b bytes of a weight.

Each term was read in the code it names and is compared with the tensors of a real learner in
tests/integration/test_plan_truth.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapo_vl.config import Config
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.training.plan.shape import ModelShape

MASTER, MOMENTS = 4, 8
"""Bytes per trained parameter: the float32 copy, AdamW's two moments."""

REDUCE_BUCKET = 500_000_000
MAX_LIVE = 1_000_000_000
"""DeepSpeed's defaults of reduce_bucket_size and stage3_max_live_parameters, in parameters."""


def weight_bytes(config: Config) -> int:
    """Return the bytes of a weight in the forward pass."""
    return 2 if config.model.dtype == "bfloat16" else 4


@dataclass(frozen=True)
class LearnerStates:
    """Bytes per rank of what outlives a micro-batch."""

    weights: float
    gradients: float  # between the first backward pass and the optimizer step
    optimizer: float
    bucket: float  # gradients on their way through a collective, during the backward pass
    step: float  # float32 gradients during the optimizer step
    gathered: float  # ZeRO-3: whole weights of the layers at work
    host: float  # in host memory: offloaded, moved there while the engine samples, the reference
    bucket_stays: bool  # gradients and bucket stay allocated outside the update, too
    moved: float  # of `resting`, what lies in host memory while the engine samples
    base: float  # of `weights`, frozen ones that are moved, too: with adapters

    @property
    def resting(self) -> float:
        """Allocated between updates; of it `moved` and `base` may be in host memory."""
        kept = self.gradients + self.bucket if self.bucket_stays else 0.0
        return self.weights + self.optimizer + kept

    @property
    def swapped(self) -> float:
        """Copied in a step between device and host; frozen weights are only copied back."""
        return 2 * self.moved + self.base


def reference_bytes(shape: ModelShape, config: Config, ranks: int) -> float:
    """Return the bytes per rank of the KL penalty's reference: the trained weights' start."""
    if config.algorithm.kl_coef == 0:
        return 0.0
    return weight_bytes(config) * shape.trained / (ranks if config.learner.zero_stage == 3 else 1)


def learner_states(
    shape: ModelShape, config: Config, ranks: int, *, on_cpu: bool = False
) -> LearnerStates:
    """Return the states of one of `ranks` ranks.

    ZeRO splits the optimizer over the ranks from stage 1, gradients from stage 2, weights in
    stage 3. In float32 DeepSpeed keeps a second copy of the weights from stage 1 on. Offloading
    moves the optimizer and all gradients to host memory: per trained parameter the float32 copy,
    two moments, a float32 gradient, and one (ZeRO-3) or two (ZeRO-2) buffers of the gradient's own
    type. `offload_while_sampling` moves all but the weights there, on a GPU, and with adapters the
    frozen weights, too, whose copy in host memory stays.
    """
    options, b = config.learner, weight_bytes(config)
    stage = options.zero_stage
    zero: dict[str, Any] = deepspeed_settings(config)["zero_optimization"]
    trained = shape.trained / (ranks if stage >= 1 else 1)
    grad = 4 if options.grad_accum_dtype == "float32" else b
    copies = 0 if stage == 0 and b == 4 else MASTER
    weights = shape.parameters * b / (ranks if stage == 3 else 1)
    gradients = grad * (trained if stage >= 2 else shape.trained)
    optimizer = (copies + MOMENTS) * trained
    size = int(zero.get("reduce_bucket_size", REDUCE_BUCKET))
    buffers = 2 if stage in (1, 2) and zero.get("overlap_comm") else 1
    # A CPU's pages are only taken when written; the accelerator's whole buffer is.
    bucket = buffers * b * (min(size, shape.trained) if on_cpu else size) if stage else 0
    step = 4.0 * trained + (b * trained if stage in (1, 2) else 0) if copies else 0.0
    host = reference_bytes(shape, config, ranks)
    if options.offload_optimizer:
        host += optimizer + (4 + grad * (1 if stage == 3 else 2)) * trained
        optimizer = gradients = step = 0.0
    if options.offload_parameters:
        host += weights
        weights = 0.0
    live = int(zero.get("stage3_max_live_parameters", MAX_LIVE))
    unit = max(max(layer.parameters for layer in shape.layers), shape.head)
    gathered = b * min(shape.parameters, live + unit) if stage == 3 else 0.0
    moved = base = 0.0
    if options.offload_while_sampling and not on_cpu:
        moved = optimizer + (gradients + bucket if stage == 3 else 0.0)
        if config.model.lora.rank and not options.offload_parameters:
            base = b * (shape.parameters - shape.trained) / (ranks if stage == 3 else 1)
    return LearnerStates(
        weights,
        gradients,
        optimizer,
        bucket,
        step,
        gathered,
        host + moved + base,
        bucket_stays=stage == 3,
        moved=moved,
        base=base,
    )
