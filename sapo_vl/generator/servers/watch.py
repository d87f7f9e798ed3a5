"""Runs a server so that it ends with the process that started it.

    python watch.py PARENT_PID COMMAND ...

A vLLM server is several processes, and a learner that is killed with SIGKILL can't end them. This
one does: it is the leader of their process group, looks whether its parent still lives, and kills
the whole group when the parent is gone or when the command has ended. The kernel's own signal at a
parent's death (PR_SET_PDEATHSIG) follows the thread that started a process, not the process.

Imports the standard library alone, because every server has one of these.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

POLL_SECONDS = 0.2


def main(argv: list[str]) -> int:
    """Run `argv[1:]` until it ends or the process argv[0] does; return its exit code."""
    parent = int(argv[0])
    process = subprocess.Popen(argv[1:])
    signal.signal(signal.SIGTERM, lambda signum, frame: process.terminate())
    while (code := process.poll()) is None and os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    if code is None:
        print("the process that started this server is gone: ending it", flush=True)
    else:
        print(f"the server ended with code {code}", flush=True)
    kill_group()
    return code or 0


def kill_group() -> None:
    """Kill the other processes of this one's group: the server, or what it left behind."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with suppress(ProcessLookupError, PermissionError):
                if os.getpgid(int(name)) == os.getpgrp():
                    os.kill(int(name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
