"""How chunks of weights get from the learner's rank 0 to vLLM servers, all of them at once.

- Servers on CPUs (`ChunkRoute`): memory shared with those that see it, gloo to the others. Each has
  a connection of its own, so that one that fails leaves the others alone.
- Servers on GPUs (`NcclRoute`): vLLM's NCCL broadcast, one group of all. CUDA IPC is no choice: a
  handle names one GPU and is opened on that same GPU (vLLM's ipc_engine.py looks its own GPU's
  UUID up among the handles), whereas a server's GPUs are never the learner's.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from sapo_vl.errors import UserError
from sapo_vl.generator.servers import chunks, gloo_link
from sapo_vl.generator.servers.shared_memory import SharedBuffer
from sapo_vl.runs.signals import beat

MEETING_SECONDS = 60.0
"""Deadline for a server's workers to meet the learner."""

CALL_SECONDS = 60.0
"""Deadline of a call that moves no weights."""

BYTES_PER_SECOND = 20e6
"""Least speed at which a server has to take weights; a chunk's deadline follows from it."""

Failures = dict[str, Exception]
"""What went wrong, by the server's address."""


class Control(Protocol):
    """One server's HTTP routes. An error names the server."""

    @property
    def address(self) -> str:
        """The server's http://HOST:PORT."""
        ...

    def post(self, path: str, json: Any = None, timeout: float = CALL_SECONDS) -> Any:
        """Send `json` and return what the answer holds; raise for any status but 200."""
        ...

    def tell(self, path: str, json: Any = None, timeout: float = CALL_SECONDS) -> None:
        """Send `json` as `post` does; what the answer holds is no JSON."""
        ...

    def get(self, path: str, timeout: float = CALL_SECONDS) -> Any:
        """Return what a route holds, as `post` does."""
        ...


class Route(Protocol):
    """A way of chunks to servers."""

    def connect(self, servers: Sequence[Control]) -> Failures:
        """Prepare for these servers, and drop those of before."""
        ...

    def deliver(self, weights: Iterable[tuple[str, Tensor]], servers: list[Control]) -> Failures:
        """Bring weights to the servers, which wait for them; takes failed ones off the list.

        Goes through all of the weights even if no server is left: other ranks take part.
        """
        ...


def each(servers: Sequence[Control], call: Callable[[Control], object]) -> Failures:
    """Run `call` for all servers at once; return what it raised. A UserError is raised on."""
    failures: Failures = {}
    if not servers:
        return failures
    with ThreadPoolExecutor(len(servers)) as pool:
        futures = [(server, pool.submit(call, server)) for server in servers]
    for server, future in futures:
        error = future.exception()
        if isinstance(error, UserError):
            raise error
        if isinstance(error, Exception):
            failures[server.address] = error
        elif error is not None:
            raise error
    return failures


def remove(servers: list[Control], failures: Failures) -> None:
    """Take servers that failed off a list."""
    servers[:] = [server for server in servers if server.address not in failures]


def state_of(server: Control, path: str = "") -> dict[str, Any]:
    """Ask a server's first worker for its state; see WorkerExtension.sapo_state."""
    body = {"method": "sapo_state", "kwargs": {"path": path}}
    state: dict[str, Any] = server.post("/collective_rpc", body)["results"][0]
    return state


def sees(server: Control, path: str, content: bytes) -> bool:
    """Whether the server's workers find `content` in the file that we call `path`."""
    return bool(state_of(server, path)["digest"] == hashlib.sha256(content).hexdigest())


class ChunkRoute:
    """Chunks in shared memory, or by gloo to servers that don't see it."""

    def __init__(self) -> None:
        self._links: dict[str, gloo_link.GlooLink | None] = {}

    def connect(self, servers: Sequence[Control]) -> Failures:
        """See Route."""
        self._links.clear()
        token = secrets.token_bytes(32)
        with SharedBuffer(len(token)) as probe:
            probe.tensor.copy_(torch.frombuffer(bytearray(token), dtype=torch.uint8))
            return each(servers, lambda server: self._connect(server, probe.path, token))

    def _connect(self, server: Control, path: str, token: bytes) -> None:
        if sees(server, path, token):
            server.post("/init_weight_transfer_engine", {"init_info": {}})
            self._links[server.address] = None
            return
        place = urlsplit(server.address)
        workers = int(server.get("/get_world_size")["world_size"])
        meeting = gloo_link.Meeting(
            str(place.hostname), place.port or 80, 1 + workers, MEETING_SECONDS
        )
        info = {"host": meeting.host, "port": meeting.port, "seconds": MEETING_SECONDS}
        body, timeout = {"init_info": info}, 2 * MEETING_SECONDS
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(meeting.join)
            server.post("/init_weight_transfer_engine", body, timeout=timeout)
            self._links[server.address] = joining.result()

    def deliver(self, weights: Iterable[tuple[str, Tensor]], servers: list[Control]) -> Failures:
        """See Route."""
        failures: Failures = {}
        for chunk, path in _shared_chunks(weights):
            failed = each(servers, lambda server: self._deliver(server, chunk, path))  # noqa: B023
            failures |= failed
            remove(servers, failed)
            beat()
        last = {"names": [], "dtypes": [], "shapes": [], "last": True}
        failed = each(servers, lambda server: server.post("/update_weights", {"update_info": last}))
        remove(servers, failed)
        return failures | failed

    def _deliver(self, server: Control, chunk: chunks.Chunk, path: str) -> None:
        timeout = CALL_SECONDS + chunk.size / BYTES_PER_SECOND
        info = chunk.description()
        link = self._links[server.address]
        if link is None:
            server.post("/update_weights", {"update_info": info | {"path": path}}, timeout=timeout)
            return
        sending = link.broadcast(chunk.buffer[: chunk.size])
        try:
            server.post("/update_weights", {"update_info": info}, timeout=timeout)
        except BaseException:
            del self._links[server.address]
            link.give_up(sending)
            raise
        sending.wait()


def _shared_chunks(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[chunks.Chunk, str]]:
    """Yield chunks, each with the path of its memory, which lasts until the next is asked for."""
    buffers: list[SharedBuffer] = []

    def allocate(size: int) -> Tensor:
        buffers.append(SharedBuffer(size))
        return buffers[-1].tensor

    try:
        for chunk in chunks.pack(weights, allocate):
            yield chunk, buffers[-1].path
            del chunk
            buffers.pop().close()
    finally:
        for buffer in buffers:
            buffer.close()
