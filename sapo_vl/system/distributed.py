"""Ranks: one process a GPU (or a CPU core), joined by torch.distributed through DeepSpeed.

One process alone needs no port: it joins a group of one through an in-memory store.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sapo_vl.errors import EnvironmentProblem

Item = TypeVar("Item")

TIMEOUT = timedelta(minutes=60)
"""A collective that waits longer has lost a rank; rollouts of long responses differ by minutes."""


def rank() -> int:
    """Return this process's index among all ranks."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of ranks."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> torch.device:
    """Return the device of this rank: its GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def start() -> None:
    """Join the process group; harmless when joined. Raises EnvironmentProblem for a taken port."""
    if device().type == "cuda":
        torch.cuda.set_device(device())
    backend = "nccl" if device().type == "cuda" else "gloo"
    if world_size() == 1:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        if "MASTER_ADDR" not in os.environ:  # vLLM and DeepSpeed read both, nobody listens there
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    if not dist.is_initialized():  # else by us, or by vLLM where the generator came first
        if world_size() == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            _check_port()
            dist.init_process_group(backend, timeout=TIMEOUT)
    import deepspeed

    # The shared-memory operator would be compiled at the start, for single-machine CPU runs only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(backend, dist_init_required=False)


def say(text: str) -> None:
    """Print a line, on rank 0."""
    if rank() == 0:
        print(text, flush=True)


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def total(values: Mapping[str, float]) -> dict[str, float]:
    """Return the sums over ranks; every rank must pass the same keys in the same order."""
    if world_size() == 1:
        return dict(values)
    tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=device())
    dist.all_reduce(tensor)
    return dict(zip(values, tensor.tolist(), strict=True))


def shared(own: Sequence[Item], size: int) -> tuple[list[Item], int]:
    """Return what the `size` consecutive ranks of this rank's block hold together, in rank order.

    And the place of this rank's first item in it. Every rank must call it.
    """
    if min(size, world_size()) == 1:
        return list(own), 0
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, list(own))
    start = rank() // size * size
    before = sum(len(part) for part in parts[start : rank()])
    return [item for part in parts[start : start + size] for item in part], before


def first(value: float) -> float:
    """Return rank 0's value."""
    return total({"value": value if rank() == 0 else 0.0})["value"]


def largest(value: float) -> float:
    """Return the maximum over ranks."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor.item())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_port() -> None:
    """Rank 0 hosts the store, unless torchrun's agent already does."""
    if rank() != 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    port = int(os.environ.get("MASTER_PORT", "29500"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise EnvironmentProblem(
                f"port {port} is in use on this machine: set MASTER_PORT to a free one"
            ) from error
