"""Signals and stalls: stop a run where nothing is lost, and end one that hangs."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO, cast

from sapo_vl.system import distributed


class RunInterrupted(Exception):
    """A signal asked the run to stop; raised where a checkpoint covers everything so far."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class PipeGuard:
    """A run's stdout: when nobody reads it any more (`| head`), the run stops at a checkpoint."""

    def __init__(self, stream: TextIO, stop: StopSignal) -> None:
        """Wrap `stream`; ask `stop` when it breaks."""
        self._stream, self._stop = stream, stop

    def write(self, text: str) -> int:
        """Write, or drop the text if the pipe is closed."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, or give up if the pipe is closed."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        """Write to nowhere from now on, the descriptor too, which Python flushes at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        self._stop.request(signal.SIGPIPE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class StopSignal:
    """Holds SIGINT and SIGTERM until the run reaches a safe point; a second one exits at once."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._interruptible = False

    def install(self) -> None:
        """Install the handlers in this process, and a guard of its stdout."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        sys.stdout = cast(TextIO, PipeGuard(sys.stdout, self))

    def request(self, signum: int) -> None:
        """Ask for a stop at the next safe point, as if the signal had come."""
        self._signum = self._signum or signum

    def requested(self) -> bool:
        """Return whether any rank was asked to stop; every rank must call it."""
        return distributed.all_reduce_max(float(self._signum is not None)) > 0

    def error(self) -> RunInterrupted:
        """Return the exception that ends the run."""
        return RunInterrupted(self._signum or signal.SIGTERM)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise RunInterrupted immediately when a signal arrives inside.

        Only for work that doesn't change the learner (sampling). With several ranks it does
        nothing, because the others would wait for this one in a collective.
        """
        if distributed.world_size() > 1:
            yield
            return
        if self._signum is not None:
            raise self.error()
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            os._exit(128 + signum)
        self._signum = signum
        if self._interruptible:
            raise self.error()


_minutes: float | None = None  # of the started watchdog


def start_watchdog(minutes: float) -> None:
    """Dump all stacks to stderr and exit with code 1 unless `beat` is called every `minutes`.

    A hung collective must not block machines overnight (ms-swift #9144).
    """
    global _minutes
    _minutes = minutes
    beat()


def beat() -> None:
    """Tell the watchdog that work goes on; does nothing where none was started.

    Called wherever a piece of work ends that may be long: a chunk of an evaluation, a finished
    request of the sampler, a micro-batch.
    """
    if _minutes is not None:
        # The process's own stream: a replaced sys.stderr may have no file descriptor.
        stream = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback_later(_minutes * 60, exit=True, file=stream)


def stop_watchdog() -> None:
    """End the watchdog: the run is over."""
    global _minutes
    _minutes = None
    faulthandler.cancel_dump_traceback_later()
