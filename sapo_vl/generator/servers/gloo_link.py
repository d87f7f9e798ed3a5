"""A gloo process group between a learner's rank 0 and the workers of one server.

It is independent of torch.distributed's default group, which learner and server have each for
themselves. The learner listens on a free port that the workers are told over HTTP.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

SENDER = 0
"""The learner's rank in the group."""

BROADCAST_TIMEOUT = timedelta(minutes=10)
"""For a peer that stays connected and silent; one that is gone is noticed at once."""


def address_towards(host: str, port: int) -> str:
    """Return the address of this machine's interface that packets to `host` leave by.

    Raises OSError when `host` has no address or there is no route to it.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:  # UDP: nothing is sent
        probe.connect(target)
        return str(probe.getsockname()[0])


class Meeting:
    """The learner's end before the workers have joined."""

    def __init__(self, server_host: str, server_port: int, size: int, seconds: float) -> None:
        """Listen for the `size` - 1 workers of a server. Raises OSError as address_towards does."""
        self.host = address_towards(server_host, server_port)
        self._size, self._timeout = size, timedelta(seconds=seconds)
        self._store = dist.TCPStore(
            self.host, 0, size, is_master=True, timeout=self._timeout, wait_for_workers=False
        )
        self.port = int(self._store.port)

    def join(self) -> GlooLink:
        """Wait until all workers have joined. Raises RuntimeError at the deadline."""
        return GlooLink(self._store, self.host, SENDER, self._size)


def join(host: str, port: int, rank: int, size: int, seconds: float) -> GlooLink:
    """Join a learner's group as worker `rank`, from 1. Raises RuntimeError at the deadline."""
    timeout = timedelta(seconds=seconds)
    store = dist.TCPStore(host, port, size, is_master=False, timeout=timeout)
    return GlooLink(store, address_towards(host, port), rank, size)


class GlooLink:
    """One process's membership in such a group."""

    def __init__(self, store: dist.Store, own_address: str, rank: int, size: int) -> None:
        """Meet the other members at the store; each listens at `own_address`."""
        kind: Any = dist.ProcessGroupGloo  # torch's type stubs know a part of it
        options = kind._Options()
        options._devices = [kind.create_device(hostname=own_address)]
        options._timeout = BROADCAST_TIMEOUT
        self._group = kind(store, rank, size, options)
        self._store = store  # the group needs it as long as it exists

    def broadcast(self, buffer: Tensor) -> dist.Work:
        """Start sending the learner's buffer, or receiving it; the result tells when it is done."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = SENDER, 0
        work: dist.Work = self._group.broadcast([buffer], options)
        return work

    def give_up(self, work: dist.Work) -> None:
        """Abandon a broadcast that the others may never take part in, and the group with it.

        Gloo can't cancel it, and destroying the group would wait for its end. A thread does: it
        ends when a peer leaves.
        """

        def wait() -> None:
            with suppress(RuntimeError):
                work.wait()
            del self._group

        threading.Thread(target=wait, daemon=True).start()
