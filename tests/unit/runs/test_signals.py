"""A run whose output nobody reads stops as if by a signal; one that hangs ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from helpers import environment

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


HANGS = """
import sys, threading, time
from pathlib import Path
from sapo_vl.runs import signals

def autopsy(minutes):
    Path(sys.argv[1]).write_text(f"{minutes * 60:.1f} s")
    if sys.argv[2] == "raises":
        raise OSError("no disk")
    if sys.argv[2] == "hangs":
        time.sleep(60)

signals.WRITING_SECONDS = 0.5
signals.start_watchdog(0.5 / 60)
signals.on_stall(autopsy)
for _ in range(3):  # work that goes on
    time.sleep(0.3)
    signals.beat()

def stuck_here():
    threading.Lock().acquire() and threading.Event().wait()

if sys.argv[2] != "ends":
    stuck_here()
signals.stop_watchdog()
time.sleep(1.2)
"""


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        ("writes", 1, "stuck_here"),
        ("raises", 1, "no autopsy: OSError('no disk')"),
        ("hangs", 1, "Timeout (0:00:01)!"),
        ("ends", 0, ""),
    ],
)
def test_a_process_that_hangs_ends_with_its_stacks_and_an_autopsy(tmp_path, case, code, words):
    note = tmp_path / "note"
    done = subprocess.run(
        [sys.executable, "-c", HANGS, note, case],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(),
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert note.exists() == (case != "ends")
    if case != "ends":
        assert "stuck_here" in done.stderr
        assert note.read_text() == "0.5 s"
