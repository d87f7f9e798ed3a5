"""Coroutines run to their end by threads that have no event loop, until they are cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThreads:
    """Runs coroutines, each in an event loop of its own thread, as the caller may have a loop."""

    def __init__(self) -> None:
        self._running: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = set()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `work` returns. An exception in the caller, such as a signal's, cuts it off.

        Raises asyncio.CancelledError when `cut_off` ended it.
        """
        started = threading.Event()
        own: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def main() -> T:
            task = asyncio.current_task()
            assert task is not None
            own.append((asyncio.get_running_loop(), task))
            self._running.update(own)
            started.set()
            try:
                return await work()
            finally:
                self._running.difference_update(own)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(lambda: asyncio.run(main()))
            try:
                return future.result()
            except BaseException:
                if not future.done():
                    started.wait()
                    _cancel(*own[0])
                raise

    def cut_off(self) -> None:
        """End all that runs; callers of `run` get an asyncio.CancelledError."""
        for loop, task in [*self._running]:
            _cancel(loop, task)


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    try:
        loop.call_soon_threadsafe(task.cancel)
    except RuntimeError:  # the loop has ended meanwhile
        assert task.done()
