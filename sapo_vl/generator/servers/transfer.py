"""The learner's side of sending weights to vLLM servers.

For each update, on every server: pause, start, all chunks, finish with the new version, drop the
prefix cache and the encoder cache, resume, and read the version back. What goes between start and
finish is in routes.py. A server that an update failed on stays paused, so that it can't answer
with a part of the new weights; the next successful update wakes it.

With rollout.in_flight requests under way stay where they are: they go on by the new weights, on the
keys and values that the old ones left. Both caches stay too, since vLLM 0.32 could not go on
without: dropping the prefix cache makes it compute the prompts under way anew, and it no longer has
the pictures of those that began with a cached prefix. What the caches hold is told apart by version
instead: it is part of each request's keys (wire.request_body).

    sender = choose(config)
    sender.send(clients, learner.weights(), version)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sapo_vl.errors import RunError, UserError
from sapo_vl.generator.adapter_folder import AdapterFolder
from sapo_vl.generator.servers import ownership
from sapo_vl.generator.servers.adapter_upload import load_adapter
from sapo_vl.generator.servers.chunks import BACKEND
from sapo_vl.generator.servers.routes import (
    ChunkRoute,
    Control,
    Failures,
    Route,
    each,
    remove,
    state_of,
)
from sapo_vl.system import distributed
from sapo_vl.system.machine import gpu_count

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets

SERVER_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that pause a server and change its weights
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # and its adapter
    # Seconds until an idle connection is closed. Its default, 5, is the client's too: then one may
    # be closed at the moment that it is used.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
}
"""What a server's environment needs besides its key."""

PAUSE_SECONDS = 600.0
"""Deadline for the requests under way to end, when the update waits for them."""


class TransferError(RunError):
    """Some servers didn't get the weights; all others did."""

    def __init__(self, version: int, failures: Failures) -> None:
        """`failures` holds what went wrong by the server's address."""
        self.failures = failures
        told = "; ".join(
            str(error) if address in str(error) else f"{address}: {error}"
            for address, error in failures.items()
        )
        super().__init__(f"weights {version} did not reach {len(failures)} server(s): {told}")


def server_options(config: Config) -> dict[str, Any]:
    """Return vLLM's engine arguments for a server that takes weights."""
    return {
        "weight_transfer_config": {"backend": "nccl" if gpu_count() else BACKEND},
        "worker_extension_cls": "sapo_vl.generator.servers.plugin.WorkerExtension",
    }


def choose(config: Config, assets: ModelAssets) -> WeightSender:
    """Return the sender for this machine's kind of device: NCCL on GPUs, chunks on CPUs.

    Collective: all ranks know the run's token.
    """
    first = distributed.rank() == 0
    owner = distributed.all_gather([ownership.owner_token(config.run.dir) if first else ""])[0]
    folder = AdapterFolder(assets, config.model) if first and config.model.lora.rank else None
    if gpu_count():
        from sapo_vl.generator.servers.nccl_route import NcclRoute

        return WeightSender(NcclRoute(), owner, folder, in_flight=config.rollout.in_flight)
    return WeightSender(ChunkRoute(), owner, folder, in_flight=config.rollout.in_flight)


class WeightSender:
    """Sends models, or adapters alone, to servers. All ranks call it; rank 0 does the talking."""

    def __init__(
        self,
        route: Route,
        owner: str,
        adapter: AdapterFolder | None = None,
        *,
        in_flight: bool = False,
    ) -> None:
        """Take how weights travel, the run's token (ownership.py), where its adapter is written.

        `in_flight`: requests under way go on after an update; otherwise it waits for their end.
        """
        self._route = route
        self.owner = owner
        self.in_flight = in_flight
        self._adapter = adapter
        self._owned: set[str] = set()  # addresses
        self._connected: set[str] = set()  # those whose workers have been met

    def label(self, version: int) -> str:
        """Return the version that responses by these weights carry."""
        return ownership.label(self.owner, version)

    def send(
        self,
        servers: Sequence[Control],
        weights: Iterable[tuple[str, Tensor]],
        version: int,
    ) -> None:
        """Bring all weights to all servers.

        Args:
            servers: those to update; they need not be the same each time.
            weights: (Hugging Face name, whole tensor), all of them; the ranks go through it
                together.
            version: the training steps that they have seen.

        Raises:
            SetupError: a server belongs to another run.
            TransferError: a server failed, on all ranks alike. The others have the weights.
        """

        def transfer(left: list[Control], stream: Iterator[tuple[str, Tensor]]) -> Failures:
            failures = self._connect(left, self._claim_all(left))
            failures |= self._step(left, self._pause)
            failures |= self._step(left, lambda server: server.post("/start_weight_update"))
            failures |= self._route.deliver(stream, left)
            self._connected -= failures.keys()
            name = self.label(version)
            failures |= self._step(left, lambda server: _finish(server, name))
            return failures | self._step(left, lambda server: self._wake(server, name))

        self._collectively(servers, weights, version, transfer)

    def send_adapter(
        self,
        servers: Sequence[Control],
        weights: Iterable[tuple[str, Tensor]],
        version: int,
    ) -> None:
        """Replace the adapter of all servers by both matrices of each layer's (PEFT names).

        The servers' base weights are those of their model folder. Otherwise as `send`.
        """

        def transfer(left: list[Control], stream: Iterator[tuple[str, Tensor]]) -> Failures:
            assert self._adapter is not None, "send_adapter() without model.lora"
            folder = self._adapter.write(stream)
            failures, _ = self._claim_all(left)
            failures |= self._step(left, self._pause)
            failures |= self._step(left, lambda server: load_adapter(server, folder))
            body = {"new_version": self.label(version)}
            failures |= self._step(left, lambda s: s.post("/update_weight_version", body))
            return failures | self._step(
                left, lambda server: self._wake(server, self.label(version))
            )

        self._collectively(servers, weights, version, transfer)

    def close(self) -> None:
        """Remove the adapter's folder."""
        if self._adapter is not None:
            self._adapter.close()

    def release(self, servers: Sequence[Control]) -> None:
        """Give the servers up, so that another run may take them; one that is gone is no error."""
        body = {"new_version": ownership.RELEASED}
        mine = [server for server in servers if server.address in self._owned]
        each(mine, lambda server: server.post("/update_weight_version", body))
        self._owned.clear()
        self._connected.clear()

    def _collectively(
        self,
        servers: Sequence[Control],
        weights: Iterable[tuple[str, Tensor]],
        version: int,
        transfer: Callable[[list[Control], Iterator[tuple[str, Tensor]]], Failures],
    ) -> None:
        """Run `transfer` on rank 0 and go through the weights on all; raise everywhere or nowhere.

        Gathering weights under ZeRO-3 takes all ranks, so each goes to the end in any case.
        """
        stream = iter(weights)
        failures: Failures = {}
        error: Exception | None = None
        if distributed.rank() == 0:
            try:
                failures = transfer(list(servers), stream)
            except Exception as raised:  # raised below, when the other ranks know
                error = raised
        for _ in stream:
            pass
        told = distributed.all_gather(
            [(_portable(error), {a: str(e) for a, e in failures.items()})]
        )
        if error is not None:
            raise error
        if told[0][0] is not None:
            raise told[0][0]
        failures = failures or {address: RunError(text) for address, text in told[0][1].items()}
        if failures:
            raise TransferError(version, failures)

    def _claim_all(self, servers: list[Control]) -> tuple[Failures, set[str]]:
        """Take over servers that are free; return also the addresses of those that weren't."""
        owned: set[str] = set()

        def claim(server: Control) -> None:
            shown = server.get("/weight_info")["weight_version"]
            if ownership.is_owned(server.address, shown, self.owner):
                owned.add(server.address)
                return
            body = {"new_version": ownership.label(self.owner, "claimed")}
            server.post("/update_weight_version", body)

        failures = self._step(servers, claim)
        self._owned = {server.address for server in servers}
        return failures, owned

    def _connect(self, servers: list[Control], claimed: tuple[Failures, set[str]]) -> Failures:
        """Meet the workers of all servers anew, unless those met are the ones there are.

        A server that was restarted shows no owner, so it was none of `claimed`'s second part.
        """
        failures, owned = claimed
        if servers and (failures or not {s.address for s in servers} == owned == self._connected):
            self._connected = {server.address for server in servers}
            failures |= self._step(servers, _end_open_update)
            failed = self._route.connect(servers)
            remove(servers, failed)
            self._connected -= failed.keys()
            failures |= failed
        return failures

    def _pause(self, server: Control) -> None:
        """Stop the scheduler: at once, or when the requests under way have ended."""
        mode = "keep" if self.in_flight else "wait"
        server.post(f"/pause?mode={mode}&clear_cache=false", timeout=PAUSE_SECONDS)

    def _wake(self, server: Control, label: str) -> None:
        """Drop what was computed by old weights, resume, and check the version.

        Either cache alone would keep stale values.
        """
        if not self.in_flight:
            answer = server.post("/reset_prefix_cache?reset_running_requests=true")
            if not answer["success"]:
                raise RunError("the prefix cache could not be dropped")
            server.post("/reset_encoder_cache")
        server.post("/resume")
        shown = server.get("/weight_info")["weight_version"]
        if shown != label:
            raise RunError(f"its weights are {shown} after an update to {label}")

    def _step(self, servers: list[Control], call: Callable[[Control], object]) -> Failures:
        """Make a call on each server that is left; take those that fail off the list."""
        failures = each(servers, call)
        remove(servers, failures)
        self._connected -= failures.keys()
        return failures


def _end_open_update(server: Control) -> None:
    """End the update of a learner that was killed in the middle of it."""
    if state_of(server)["active"]:
        server.post("/finish_weight_update")


def _finish(server: Control, label: str) -> None:
    server.post("/finish_weight_update", {"weight_version": label})


def _portable(error: Exception | None) -> Exception | None:
    """Return rank 0's error as one that can be sent to the other ranks."""
    kind = type(error) if isinstance(error, UserError) else RunError
    return None if error is None else kind(str(error))
