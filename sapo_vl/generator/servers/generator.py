"""Rollouts from vLLM servers: generator.backend=server.

The servers are either running already (generator.servers, on this or other machines) or started and
stopped here (generator.local_servers). Prompts are spread over them by tokens; each rank sends its
own. `generate` may run in a background thread while the learner trains.

What can go wrong:
- A server that breaks off, misses generator.server_seconds or stops answering /health gets no more
  prompts, and its unfinished ones go to the others at once. Seeds belong to prompts: on CPUs the
  result is the same to the bit. A message says so. When none is left, `generate` raises
  ServersLostError, which names each with its fault.
- `update_weights` starts anew the local servers that have failed, and asks the others whether they
  are back. Whoever answers gets the weights with the rest and takes prompts again.
- Between two updates nobody may have other weights: each response tells the version that sampled
  it, and has to tell the one last sent. With rollout.in_flight an update may come in the middle of
  responses: they tell several, each at least as new as the one before.
- A picture lost or altered on the way raises DataError: each answer tells to what the server
  expanded the prompt, and each server's patches are compared once with the processor's.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from torch import Tensor

from sapo_vl.errors import ConfigError, RunError, SetupError
from sapo_vl.generator.base import SamplingRequest
from sapo_vl.generator.servers import ownership, wire
from sapo_vl.generator.servers.batch import ServerBatch
from sapo_vl.generator.servers.client import ServerClient, ServerError
from sapo_vl.generator.servers.command import check_server, serve_options
from sapo_vl.generator.servers.loop_thread import LoopThreads
from sapo_vl.generator.servers.pictures import compare_patches
from sapo_vl.generator.servers.process import LocalServers
from sapo_vl.generator.servers.transfer import TransferError, WeightSender
from sapo_vl.generator.vllm_engine import ADAPTER
from sapo_vl.model.chat_template import response_texts
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Rollout
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets

T = TypeVar("T")

KEY_VARIABLE = "SAPO_SERVER_KEY"
"""Environment variable that holds the key of generator.servers."""


QUEUE = 2
"""Sequences that a server holds at a time, sampling or waiting, per sequence that it can decode."""


class ServersLostError(RunError):
    """No server is left that could sample."""


class ServerGenerator:
    """Samples on servers; see Generator for its methods."""

    remote = True

    def __init__(
        self, config: Config, assets: ModelAssets, *, seed: int, sender: WeightSender
    ) -> None:
        """Start or find the servers. Collective.

        Raises SetupError for a server that doesn't start, isn't there or refuses the key, and
        ConfigError for one that was started with other options.
        """
        self._assets = assets
        self._seconds = config.generator.server_seconds
        self._sequences = config.generator.max_num_seqs
        self._sender = sender
        self._model = ADAPTER if config.model.lora.rank else wire.SERVED_NAME
        self._in_flight = config.rollout.in_flight
        self._label = ownership.UNOWNED  # of the weights that all servers have
        self._newest = self._label  # of those that some have already
        self._local: LocalServers | None = None
        self._threads = LoopThreads()

        def start() -> tuple[list[str], str, str]:
            if not config.generator.local_servers:
                return find_servers(config, assets, seed)
            self._local = LocalServers(config, assets, seed=seed)
            self._local.start()
            return self._local.addresses, self._local.key, ""

        addresses, self._key, self._other_folder = self._on_rank_0(start)
        self._clients = [ServerClient(address, self._key) for address in addresses]
        self._faults: dict[str, str] = {}  # by address, of servers that get no prompts
        self._compared = set[str]()  # addresses whose patches have been compared
        gc.collect()
        gc.freeze()  # else each full collection goes through all that has been imported: 0.3 s

    @property
    def alive(self) -> list[ServerClient]:
        """The servers that get prompts."""
        return [client for client in self._clients if client.address not in self._faults]

    def generate(self, requests: Sequence[SamplingRequest]) -> list[list[Rollout]]:
        """See Generator. No collective: each rank's calls are its own.

        Raises ServersLostError when no server is left, RefusedError when a server finds a request
        wrong, DataError when it makes something else of a prompt than the processor does, and
        RunError when other weights than those last sent sampled a response.
        """
        if not requests:
            return []
        label = self._label
        if label == ownership.UNOWNED:
            self._check_folder()
        answered = self._threads.run(lambda: self._sample(requests))
        for responses in answered:
            for response in responses:
                self._check_versions(response, label, self._newest)
        ids = [response.token_ids for responses in answered for response in responses]
        texts = iter(response_texts(self._assets, ids))
        return [
            [
                Rollout(
                    prompt=request.prompt,
                    token_ids=response.token_ids,
                    text=next(texts),
                    finish_reason=response.finish_reason,
                    generator_logprobs=response.logprobs,
                    versions=response.versions,
                )
                for response in responses
            ]
            for request, responses in zip(requests, answered, strict=True)
        ]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int = 0) -> None:
        """See Generator. Collective. Servers that failed and are back get the weights too.

        Raises SetupError or ServersLostError, on all ranks alike.
        """
        self._update(self._sender.send, weights, version)

    def update_adapter(self, weights: Iterable[tuple[str, Tensor]], version: int = 0) -> None:
        """See Generator. Collective, as `update_weights`.

        Raises ConfigError too, for servers with another base.
        """
        self._check_folder()
        self._update(self._sender.send_adapter, weights, version)

    def sleep(self) -> None:
        """See Generator: servers have memory of their own."""

    def close(self) -> None:
        """See Generator. Cuts off what is being sampled, with an asyncio.CancelledError.

        Local servers end; others may be taken by another run.
        """
        self._threads.cut_off()
        if distributed.rank() == 0 and self._local is None:
            self._sender.release(self.alive)
        self._sender.close()
        for client in self._clients:
            client.close()
        if self._local is not None:
            self._local.stop()

    def _update(
        self,
        send: Callable[..., None],
        weights: Iterable[tuple[str, Tensor]],
        version: int,
    ) -> None:
        for faults in distributed.all_gather([self._faults]):  # what each rank has met
            self._faults |= faults
        addresses, self._faults = self._on_rank_0(self._revive)
        self._move_to(addresses)
        self._newest = self._sender.label(version)
        try:
            send(self.alive, weights, version)
        except TransferError as error:
            self._faults |= {address: str(e) for address, e in error.failures.items()}
            if not self.alive:
                raise self._lost() from error
            distributed.print0(f"warning: {error}; the other servers go on")
        self._label = self._newest

    def _revive(self) -> tuple[list[str], dict[str, str]]:
        """Start dead local servers anew and ask dead others whether they are back.

        Returns all addresses, and the faults of those that are still dead. Raises ServersLostError
        when all are, SetupError for a local server that doesn't start.
        """
        if self._local is not None:
            for index, client in enumerate(self._clients):
                if client.address in self._faults:
                    self._local.end(index)
            for index in self._local.restart_dead():
                print(f"local server {index} had ended: it was started anew", flush=True)
            return self._local.addresses, {}
        faults = {
            client.address: self._faults[client.address]
            for client in self._clients
            if client.address in self._faults and not client.is_up()
        }
        if len(faults) == len(self._clients):
            raise self._lost()
        return [client.address for client in self._clients], faults

    def _move_to(self, addresses: Sequence[str]) -> None:
        for index, address in enumerate(addresses):
            if self._clients[index].address != address:
                self._clients[index].close()
                self._clients[index] = ServerClient(address, self._key)

    def _on_rank_0(self, work: Callable[[], T]) -> T:
        """Return what `work` returned on rank 0, on all ranks; raise there what it raised."""
        result: list[Any] = [None, None]
        if distributed.rank() == 0:
            try:
                result[0] = work()
            except Exception as error:  # raised below, on all ranks
                result[1] = error
        result = distributed.all_gather([result])[0] if distributed.world_size() > 1 else result
        if result[1] is not None:
            raise result[1]
        return result[0]

    def _check_folder(self) -> None:
        """Check that the servers have our model folder, where its weights are to sample."""
        if self._other_folder:
            raise ConfigError(self._other_folder)

    def _check_versions(self, response: wire.ServerResponse, label: str, newest: str) -> None:
        """Check that the weights sent last, `label`, sampled a response, all of it.

        With rollout.in_flight versions up to `newest` may follow each other.
        """
        if response.labels == (label,):
            return
        told = [label, *response.labels, newest]
        if self._in_flight and response.labels and ownership.in_order(told):
            return
        found = ", ".join(response.labels) or "(none)"
        if label == ownership.UNOWNED:
            raise SetupError(
                f"generator.servers: a server holds the weights {found} that a training run sent, "
                "and not those of its model folder: restart it"
            )
        raise RunError(
            f"a response was sampled by the weights {found} and not by {label}: someone else "
            "changes the servers' weights"
        )

    def _lost(self) -> ServersLostError:
        told = "; ".join(f"{address}: {fault}" for address, fault in self._faults.items())
        return ServersLostError(f"no server is left to sample: {told}")

    async def _sample(self, requests: Sequence[SamplingRequest]) -> list[list[wire.ServerResponse]]:
        """Return the responses to each request, whichever server gave them."""
        if not self.alive:
            raise self._lost()
        costs = [
            len(request.prompt.expanded_ids) + request.params.n * request.params.max_new_tokens
            for request in requests
        ]

        async def ask(
            client: ServerClient, session: httpx.AsyncClient, index: int
        ) -> list[wire.ServerResponse]:
            request = requests[index]
            if request.prompt.images and client.address not in self._compared:
                self._compared.add(client.address)
                await compare_patches(client, session, request.prompt, self._seconds)
            salt = self._label if self._in_flight else ""
            body = wire.request_body(request, self._assets, self._model, salt)
            answer = await client.generate(session, body, self._seconds)
            found = wire.responses(answer, request, client.address)
            wire.check_answer(answer, request.prompt, self._assets.image_token_id, client.address)
            beat()
            return found

        # Ranks choose apart from each other: each begins with another server.
        alive, first = self.alive, distributed.rank() % len(self.alive)
        clients = [*alive[first:], *alive[:first]]
        responses = max(request.params.n for request in requests)
        limit = max(1, QUEUE * self._sequences // responses)
        return await ServerBatch(clients, costs, ask, self._give_up, limit).run()

    def _give_up(self, error: ServerError) -> None:
        """Send no more prompts to a server. Raises ServersLostError when it was the last."""
        self._faults[error.address] = error.problem
        self._compared.discard(error.address)  # it may come back as another
        if not self.alive:
            raise self._lost() from error
        print(f"warning: {error}; the other servers take its prompts", flush=True)


def find_servers(config: Config, assets: ModelAssets, seed: int) -> tuple[list[str], str, str]:
    """Return the addresses in generator.servers and their key, once each has been checked.

    The third is what check_server says of a server with another model folder, or empty.
    """
    key, options = key_of_environment(), serve_options(config, assets, seed=seed)
    addresses = [address.rstrip("/") for address in config.generator.servers]
    found = ""
    for address in addresses:
        with closing(ServerClient(address, key)) as client:
            found = check_server(client, options) or found
    return addresses, key, found


def key_of_environment() -> str:
    """Return the key of generator.servers. Raises SetupError where there is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise SetupError(
            f"generator.servers: set the environment variable {KEY_VARIABLE} to the servers' key"
        )
    if not (key.isascii() and key.isprintable()):
        raise SetupError(f"generator.servers: the environment variable {KEY_VARIABLE} holds no key")
    return key
