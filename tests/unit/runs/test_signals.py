"""A run whose output nobody reads stops as if by a signal."""

from __future__ import annotations

import os
import signal

from sapo_vl.runs.signals import PipeGuard, StopSignal


def test_a_closed_pipe_asks_for_a_stop_and_nothing_is_raised():
    read, write = os.pipe()
    stop = StopSignal()
    with os.fdopen(write, "w", buffering=1) as stream:
        guard = PipeGuard(stream, stop)
        guard.write("one\n")
        assert os.read(read, 100) == b"one\n"
        assert not stop.requested()
        os.close(read)
        for _ in range(3):
            guard.write("two\n")
            print("three", file=guard, flush=True)
        assert stop.requested()
        assert stop.error().signum == signal.SIGPIPE  # 128 + 13 = 141, as for any command
        assert guard.fileno() == write
