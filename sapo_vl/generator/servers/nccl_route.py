"""Weights to vLLM servers on GPUs, by vLLM's own NCCL engine. Not yet run on GPUs.

vLLM's trainer-side classes want to know all weights' shapes in advance and drive one server. Here
weights come as a stream, so this uses the parts those classes are made of: the meeting of trainer
and workers, and the broadcast in packed buffers.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from sapo_vl.errors import RunError
from sapo_vl.generator.servers.chunks import CHUNK_BYTES
from sapo_vl.generator.servers.gloo_link import address_towards
from sapo_vl.generator.servers.routes import (
    BYTES_PER_SECOND,
    CALL_SECONDS,
    MEETING_SECONDS,
    Control,
    Failures,
    each,
)
from sapo_vl.runs.signals import beat
from sapo_vl.system import distributed


class NcclRoute:
    """One NCCL group of the learner's rank 0 and all workers of all servers.

    A server that fails breaks the group: the transfer fails for all of them, and the next `connect`
    makes a group of those that are left.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def connect(self, servers: Sequence[Control]) -> Failures:
        """See Route."""
        from vllm.distributed.weight_transfer import nccl_common

        if self._group is not None:
            self._group.destroy()
            self._group = None
        sizes = [int(server.get("/get_world_size")["world_size"]) for server in servers]
        place = urlsplit(servers[0].address)
        rendezvous: dict[str, Any] = {
            "master_address": address_towards(str(place.hostname), place.port or 80),
            "master_port": _free_port(),
            "world_size": 1 + sum(sizes),
        }
        offsets = {s.address: 1 + sum(sizes[:i]) for i, s in enumerate(servers)}

        def join(server: Control) -> None:
            info = rendezvous | {"rank_offset": offsets[server.address], "packed": True}
            server.post(
                "/init_weight_transfer_engine", {"init_info": info}, timeout=MEETING_SECONDS
            )

        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(each, servers, join)
            self._group = nccl_common.trainer_init(rendezvous)
            return joining.result()

    def deliver(self, weights: Iterable[tuple[str, Tensor]], servers: list[Control]) -> Failures:
        """See Route. NCCL can't be told that a receiver is gone: then the group is given up."""
        failures: Failures = {}
        for batch in batches(weights):
            if not servers:
                continue
            sending = _Broadcast(batch, self._group)
            sending.start()
            failed = each(servers, partial(_receive, batch=batch))
            if failed:
                self._group = None  # destroying it would wait for the broadcast
                broken = RunError(f"NCCL lost {', '.join(failed)}, and with it all servers")
                failures = {server.address: broken for server in servers} | failed
                servers.clear()
                continue
            sending.join()
            if sending.error is not None:
                raise sending.error
            beat()
        return failures


class _Broadcast(threading.Thread):
    """The learner's half of sending a batch, beside the calls that make the workers receive it."""

    def __init__(self, batch: list[tuple[str, Tensor]], group: Any) -> None:
        super().__init__(daemon=True)
        self._batch, self._group = batch, group
        self.error: Exception | None = None

    def run(self) -> None:
        """Send; an error is kept for the thread that waits."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        try:
            torch.cuda.set_device(distributed.device())  # each thread has its own current device
            packed_nccl_broadcast_producer(
                iter(self._batch), self._group, src=0, post_iter_func=lambda item: item[1]
            )
        except Exception as error:
            self.error = error


def _receive(server: Control, batch: list[tuple[str, Tensor]]) -> None:
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in batch)
    info = {
        "names": [name for name, _ in batch],
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in batch],
        "shapes": [list(tensor.shape) for _, tensor in batch],
    }
    timeout = CALL_SECONDS + size / BYTES_PER_SECOND
    server.post("/update_weights", {"update_info": info}, timeout=timeout)


def batches(
    weights: Iterable[tuple[str, Tensor]], limit: int = CHUNK_BYTES
) -> Iterator[list[tuple[str, Tensor]]]:
    """Copy tensors into lists of at most `limit` bytes, or of one tensor, where they are.

    Each is copied before the next is asked for: under ZeRO-3 it is valid no longer.
    """
    batch: list[tuple[str, Tensor]] = []
    total = 0
    for name, tensor in weights:
        size = tensor.numel() * tensor.element_size()
        if batch and total + size > limit:
            yield batch
            batch, total = [], 0
        batch.append((name, tensor.detach().clone()))
        total += size
    if batch:
        yield batch


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
