"""Signals and stalls: stop a run where nothing is lost, and end one that hangs."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
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


WRITING_SECONDS = 120.0
"""Time that an autopsy has after the watchdog's timeout, before the process ends without it."""


class Watchdog(threading.Thread):
    """Ends the process with code 1, after an autopsy, unless `beat` is called often enough.

    Where this thread can't run, because another holds the interpreter's lock or the disk hangs,
    faulthandler's timer in C dumps the stacks and ends the process WRITING_SECONDS later.
    """

    def __init__(self, minutes: float) -> None:
        """`minutes` without a beat are a stall."""
        super().__init__(name="watchdog", daemon=True)
        self._minutes = minutes
        self._ended = threading.Event()
        self._deadline = 0.0
        self.autopsy: Callable[[float], None] | None = None

    def beat(self) -> None:
        """Start the time again."""
        self._deadline = time.monotonic() + self._minutes * 60
        late = self._minutes * 60 + WRITING_SECONDS
        faulthandler.dump_traceback_later(late, exit=True, file=error_stream())

    def run(self) -> None:
        """Wait for a stall or for the end of the run."""
        while not self._ended.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._stalled()

    def end(self) -> None:
        """The run is over."""
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def _stalled(self) -> None:
        try:
            faulthandler.dump_traceback(error_stream(), all_threads=True)
            if self.autopsy is not None:
                self.autopsy(self._minutes)
        except BaseException as error:  # nothing may keep a hung process alive
            print(f"sapo-vl: no autopsy: {error!r}", file=error_stream(), flush=True)
        finally:
            os._exit(1)


_watchdog: Watchdog | None = None


def error_stream() -> TextIO:
    """Return the process's own stderr: a replaced one may have no file descriptor."""
    stream = sys.__stderr__ or sys.stderr
    assert stream is not None, "a process without stderr"
    return stream


def start_watchdog(minutes: float) -> None:
    """Dump all stacks to stderr and exit with code 1 unless `beat` is called every `minutes`.

    A hung collective must not block machines overnight (ms-swift #9144).
    """
    global _watchdog
    stop_watchdog()
    _watchdog = Watchdog(minutes)
    _watchdog.beat()
    _watchdog.start()


def on_stall(autopsy: Callable[[float], None]) -> None:
    """Have the watchdog call `autopsy` with its minutes, in its own thread, before it exits."""
    if _watchdog is not None:
        _watchdog.autopsy = autopsy


def beat() -> None:
    """Tell the watchdog that work goes on; does nothing where none was started.

    Called wherever a piece of work ends that may be long: a chunk of an evaluation, a finished
    request of the sampler, a micro-batch.
    """
    if _watchdog is not None:
        _watchdog.beat()


def stop_watchdog() -> None:
    """End the watchdog: the run is over."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.end()
        _watchdog = None
