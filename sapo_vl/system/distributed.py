"""Collectives over ranks: one process per GPU (or per CPU core), joined by torch.distributed.

A single process needs no port: its process group of one uses an in-memory store.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sapo_vl.system import network
from sapo_vl.system.machine import check_gpu

Item = TypeVar("Item")

TIMEOUT = timedelta(minutes=60)
"""Timeout of a collective; longer means a lost rank, as rollout times differ by minutes at most."""


def rank() -> int:
    """Return this process's global rank."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of ranks."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def cores_per_rank() -> int:
    """Return the cores that this process may use, shared with the other ranks of its machine."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def device() -> torch.device:
    """Return the device of this rank: its GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def init() -> None:
    """Initialise the process group, once. Raises SetupError when the ranks can't meet.

    The ranks of one machine meet in the file SAPO_STORE (system/launch.py); those of several
    at MASTER_ADDR (system/network.py). A GPU that PyTorch or Triton can't use is a SetupError too.
    """
    check_gpu()
    if device().type == "cuda":
        torch.cuda.set_device(device())
    backend = "nccl" if device().type == "cuda" else "gloo"
    if world_size() == 1:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    if ranks_here := os.environ.get("LOCAL_SIZE"):  # DeepSpeed's launcher says it by this name
        os.environ.setdefault("LOCAL_WORLD_SIZE", ranks_here)
    if "MASTER_ADDR" not in os.environ and (world_size() == 1 or "SAPO_STORE" in os.environ):
        # vLLM and DeepSpeed read both; nothing listens there
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    if not dist.is_initialized():  # vLLM may have done it, if the generator came first
        if world_size() == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        elif path := os.environ.get("SAPO_STORE"):  # one machine: no port that others can reach
            store = dist.FileStore(path, world_size())
            dist.init_process_group(
                backend, store=store, rank=rank(), world_size=world_size(), timeout=TIMEOUT
            )
        else:
            network.prepare(rank())
            dist.init_process_group(backend, timeout=TIMEOUT)
    import deepspeed

    # DeepSpeed would compile its shared-memory operator at start-up, for CPU runs only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(backend, dist_init_required=False)


def print0(text: str) -> None:
    """Print a line on rank 0."""
    if rank() == 0:
        print(text, flush=True)


_thread = threading.local()
"""`group`: the process group of this thread's collectives, where it isn't the default one."""


def side_group() -> dist.ProcessGroup | None:
    """Return a new process group of all ranks, for a thread; None for one rank. Collective.

    Two threads must not share a group: their collectives would meet in another order on each rank.
    """
    if world_size() == 1:
        return None
    return dist.new_group(timeout=TIMEOUT, backend="gloo")


@contextmanager
def using(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Make this thread's collectives go through `group`."""
    _thread.group = group
    try:
        yield
    finally:
        _thread.group = None


def _group() -> dist.ProcessGroup | None:
    return getattr(_thread, "group", None)


def _collective_device() -> torch.device:
    """Return where a collective's tensors are: a thread's own group is gloo's, on the CPU."""
    return device() if _group() is None else torch.device("cpu")


def barrier() -> None:
    """Block until all ranks arrive."""
    if world_size() > 1:
        dist.barrier(group=_group())


def all_reduce_sum(values: Mapping[str, float]) -> dict[str, float]:
    """Return each value summed over ranks. Keys and their order must agree on all ranks."""
    if world_size() == 1:
        return dict(values)
    tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=_collective_device())
    dist.all_reduce(tensor, group=_group())
    return dict(zip(values, tensor.tolist(), strict=True))


def all_reduce_max(value: float) -> float:
    """Return the maximum over ranks."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=_collective_device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=_group())
    return float(tensor.item())


def broadcast(value: float) -> float:
    """Return rank 0's value on all ranks."""
    return all_reduce_sum({"value": value if rank() == 0 else 0.0})["value"]


def all_gather(items: Sequence[Item]) -> list[Item]:
    """Return the picklable items of all ranks, in rank order, on all ranks."""
    return [item for part in _gather_parts(items) for item in part]


def all_gather_block(items: Sequence[Item], size: int) -> tuple[list[Item], int]:
    """All-gather `items` within this rank's block of `size` consecutive ranks.

    Returns the block's items in rank order and the offset of this rank's first one. `size` divides
    the number of ranks. The first call for a size is collective over all ranks, later ones over the
    block. The items of a rank travel as one pickle: an object that several of them hold does once.
    """
    if min(size, world_size()) == 1:
        return list(items), 0
    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, list(items), group=_block(size))
    offset = sum(len(part) for part in parts[: rank() % size])
    return [item for part in parts for item in part], offset


@cache
def _block(size: int) -> dist.ProcessGroup:
    """Return the process group of this rank's block; every rank makes all of them, in order.

    They are gloo's, so that pictures do not pass through a GPU's memory.
    """
    blocks = [
        dist.new_group(list(range(first, first + size)), timeout=TIMEOUT, backend="gloo")
        for first in range(0, world_size(), size)
    ]
    return blocks[rank() // size]


def _gather_parts(items: Sequence[Item]) -> list[list[Item]]:
    if world_size() == 1:
        return [list(items)]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, list(items), group=_group())
    return parts


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
