"""One process per GPU or core of this machine: `python -m sapo_vl.system.launch RANKS ARGUMENTS`.

Each process runs `sapo-vl ARGUMENTS` as one rank. Unlike torchrun, this keeps sapo-vl's exit codes
and its one line for a mistake: torchrun ends with a traceback and 1 whatever a rank's code is. The
ranks meet in a file, so nothing listens on the network. Several machines: DeepSpeed's launcher.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

FORWARDED = (signal.SIGINT, signal.SIGTERM)
"""Signals that are passed to every rank. SIGHUP is not, so that nohup works."""

CHECKPOINT_SECONDS = 900
"""Time that ranks have after a signal to write a checkpoint."""

FAILURE_SECONDS = 10
"""Time that the other ranks have to end by themselves once one has failed: often all fail alike."""

POLL_SECONDS = 0.05

PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(argv: Sequence[str]) -> int:
    """Run `sapo-vl argv[1:]` on argv[0] ranks and return the exit code."""
    ranks, *arguments = argv
    return launch([sys.executable, "-m", "sapo_vl.cli", *arguments], int(ranks))


def launch(command: Sequence[str], ranks: int) -> int:
    """Run `command` once per rank; return 0, or the exit code of the first rank that failed.

    A rank that a signal ended counts as 128 + the signal, as in a shell. SIGINT and SIGTERM go to
    every rank, and a second one too. Where a rank fails the others are killed after a while, since
    they would wait for it in a collective.
    """
    processes: list[subprocess.Popen[bytes]] = []
    signalled: list[float] = []  # when

    def forward(signum: int, frame: FrameType | None) -> None:
        signalled.append(time.monotonic())
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    previous = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    try:
        with tempfile.TemporaryDirectory(prefix="sapo-ranks.") as meeting:
            processes += [_start(command, rank, ranks, Path(meeting)) for rank in range(ranks)]
            return _wait(processes, signalled)
    finally:
        for process in processes:
            process.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def first_to_say(text: str) -> bool:
    """Whether no other rank of this machine has asked for `text` before; True for a single process.

    Errors are mostly the same on all ranks, and one line is enough.
    """
    store = os.environ.get("SAPO_STORE")
    if not store:
        return True
    name = hashlib.blake2b(text.encode(errors="replace"), digest_size=12).hexdigest()
    try:
        os.close(os.open(f"{store}.{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _start(command: Sequence[str], rank: int, ranks: int, meeting: Path) -> subprocess.Popen[bytes]:
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "SAPO_STORE": str(meeting / "store"),
    }
    defaults = {  # one thread each, and collectives that leave the network alone
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    return subprocess.Popen(
        command,
        env=defaults | os.environ | variables,
        # A group of its own: Ctrl-C in a terminal reaches the launcher, which passes it on once.
        process_group=0,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Have the kernel kill this process when the launcher is killed: no rank is left behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(processes: Sequence[subprocess.Popen[bytes]], signalled: Sequence[float]) -> int:
    failed: tuple[int, float] | None = None  # exit code, when
    while None in (codes := [process.poll() for process in processes]):
        now = time.monotonic()
        if failed is None:
            failed = next(((code, now) for code in codes if code), None)
        if signalled:
            expired = now - signalled[0] > CHECKPOINT_SECONDS
        else:
            expired = failed is not None and now - failed[1] > FAILURE_SECONDS
        if expired:
            for process in processes:
                process.kill()
        time.sleep(POLL_SECONDS)
    code = failed[0] if failed else next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
