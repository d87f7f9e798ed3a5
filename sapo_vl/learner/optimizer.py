"""AdamW under each ZeRO stage; the cores it steps on; its state in host memory between updates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sapo_vl.config import Config
from sapo_vl.config.sections import LearnerConfig
from sapo_vl.learner.deepspeed_config import own_step
from sapo_vl.system import distributed


class SkippingAdamW(torch.optim.AdamW):
    """AdamW for ZeRO stage 0: clips, and skips a step whose gradient is not finite.

    From stage 1 on, DeepSpeed's own optimizers do the same; its engine reads `overflow` and
    `_global_grad_norm`. The gradient is already reduced over ranks, so all ranks decide the same.
    """

    def __init__(self, *args: Any, clip: float, **kwargs: Any) -> None:
        """`clip` is the largest norm, 0 for none."""
        super().__init__(*args, **kwargs)
        self._clip = clip if clip > 0 else float("inf")
        self.overflow = False
        self._global_grad_norm = 0.0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip the gradient and step, unless it is not finite."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip)
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        if not self.overflow:
            super().step(closure)


def build_optimizer(trained: list[torch.nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """Return AdamW over `trained`, to be handed to deepspeed.initialize."""
    options = config.learner
    shared: dict[str, Any] = {
        "lr": options.lr,
        "betas": options.betas,
        "weight_decay": options.weight_decay,
        "fused": True,  # DeepSpeed's own needs a just-in-time build
    }
    if own_step(config):
        return SkippingAdamW(trained, clip=options.max_grad_norm, **shared)
    return torch.optim.AdamW(trained, **shared)


def undo_first_step(optimizer: Any) -> None:
    """Undo the step on zero gradients by which DeepSpeed makes its bfloat16 optimizer's state.

    Without ZeRO it counts in Adam's bias correction, so that the first update would be 0.74 of the
    right one, and it applies the weight decay once before training.
    """
    optimizer.refresh_fp32_params()
    for state in optimizer.optimizer.state.values():
        state["step"].zero_()


@contextmanager
def all_cores(options: LearnerConfig) -> Iterator[None]:
    """Let an optimizer that steps on the CPU for a GPU use this rank's share of the cores.

    Elsewhere a process has one thread (system/machine.py), and vLLM sets one as well. A run without
    a GPU keeps it: with the tiny model two threads are slower, and sums of gradients by two threads
    round differently from those by one.
    """
    if not options.offload_optimizer or distributed.device().type == "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(distributed.cores_per_rank())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def state_tensors(optimizer: Any) -> list[Tensor]:
    """Return what an optimizer of deepspeed.initialize keeps between steps, besides the weights.

    Adam's moments and the float32 copies of the weights; under ZeRO-3 also the buffer of gradients
    and the one of their reduction, which stay allocated. Some may be empty, or listed twice.
    """
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    if isinstance(optimizer, SkippingAdamW):
        inner, found = optimizer, []  # it steps the weights themselves
    else:
        inner = optimizer.optimizer
        found = [p for group in inner.param_groups for p in group["params"]]
    found += [v for state in inner.state.values() for v in state.values()]
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        found += [*optimizer.fp32_partitioned_groups_flat, optimizer.grad_partitions_flat_buffer]
        found += [bucket.buffer for bucket in optimizer.ipg_buckets.values()]
    return [tensor for tensor in found if isinstance(tensor, Tensor)]
