"""A batch of prompts on several servers: spread, watched, and moved away from one that fails.

batch = ServerBatch(clients, costs, ask, on_fault, in_flight)
answers = await batch.run()
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeVar

import httpx

from sapo_vl.generator.servers.client import RefusedError, ServerClient, ServerError
from sapo_vl.generator.servers.spread import spread

T = TypeVar("T")

HEALTH_EVERY = 10.0
"""Seconds between two questions after a working server's health."""

HEALTH_SECONDS = 60.0
"""Deadline of the answer: a server with thousands of sequences is slow to say anything."""

Ask = Callable[[ServerClient, httpx.AsyncClient, int], Awaitable[T]]
"""Asks a server for the answer to the prompt of this index."""


class ServerBatch(Generic[T]):
    """The prompts of one call of `generate`, until each has an answer."""

    def __init__(
        self,
        clients: Sequence[ServerClient],
        costs: Sequence[int],
        ask: Ask[T],
        on_fault: Callable[[ServerError], None],
        in_flight: int,
    ) -> None:
        """`costs` holds the tokens of each prompt and its responses.

        A server has at most `in_flight` prompts at a time: the rest would wait there too, with
        their pictures in the memory of both sides. `on_fault` is told of each server that failed,
        once; what it raises ends the batch.
        """
        self._clients = list(clients)
        self._costs = costs
        self._ask = ask
        self._on_fault = on_fault
        self._slots = {client.address: asyncio.Semaphore(in_flight) for client in clients}
        self._answers: dict[int, T] = {}
        self._sessions: dict[str, httpx.AsyncClient] = {}
        self._shares: set[asyncio.Task[list[int]]] = set()

    async def run(self) -> list[T]:
        """Return the answer to each prompt, in order.

        Raises RefusedError, what `ask` raises besides, and what `on_fault` raises. Requests that
        are in flight then are cut off, upon which a server drops them.
        """
        async with AsyncExitStack() as stack:
            for client in self._clients:
                session = await stack.enter_async_context(client.session())
                self._sessions[client.address] = session
            try:
                self._assign(range(len(self._costs)))
                while self._shares:
                    done, self._shares = await asyncio.wait(
                        self._shares, return_when=asyncio.FIRST_COMPLETED
                    )
                    for share in done:
                        self._assign(share.result())
            finally:
                await _cancel(self._shares)
        return [self._answers[i] for i in range(len(self._costs))]

    def _assign(self, indices: Iterable[int]) -> None:
        prompts = list(indices)
        shares = spread([self._costs[i] for i in prompts], len(self._clients))
        for client, share in zip(self._clients, shares, strict=True):
            if share:
                work = self._serve(client, [prompts[i] for i in share])
                self._shares.add(asyncio.create_task(work))

    async def _serve(self, client: ServerClient, share: Sequence[int]) -> list[int]:
        """Have one server answer its share; return the prompts that it leaves when it fails."""
        watch = asyncio.create_task(self._watch(client))
        pending = {asyncio.create_task(self._answer(client, i)) for i in share}
        try:
            while pending:
                done, _ = await asyncio.wait({*pending, watch}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                pending -= done
        except RefusedError:
            raise
        except ServerError as error:
            if client in self._clients:
                self._clients.remove(client)
                self._on_fault(error)
        finally:
            await _cancel({*pending, watch})
        return [i for i in share if i not in self._answers]

    async def _answer(self, client: ServerClient, index: int) -> None:
        async with self._slots[client.address]:
            session = self._sessions[client.address]
            self._answers[index] = await self._ask(client, session, index)

    async def _watch(self, client: ServerClient) -> None:
        """Ask for a server's health for ever. Raises ServerError once it has none."""
        session = self._sessions[client.address]
        while True:
            await asyncio.sleep(HEALTH_EVERY)
            await client.ask(session, "GET", "/health", None, HEALTH_SECONDS)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
