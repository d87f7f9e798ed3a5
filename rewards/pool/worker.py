"""One worker of the pool (pool.py): takes jobs from a socket, one at a time, and answers.

    python -m sapo_vl.rewards.pool.worker SOCKET_FD MEMORY_BYTES

It may be killed at any moment. It limits its own memory, writes no core file, gives itself a limit
on processor time for each job as a second net, and ends when its parent's socket closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import json
import logging
import pickle
import resource
import socket
import struct
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from sapo_vl.rewards.pool.jobs import EqualJob, Job, LoadJob, UserJob
from sapo_vl.schema import Outcome, Verdict

HEADER = struct.Struct("!I")


def main() -> None:
    """Serve until the parent closes the socket or ends."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        serve()


def serve() -> None:
    """Take limits on, say ready, and answer jobs until the socket closes."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    memory = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if sys.argv[3] == "symbolic":
        from sapo_vl.rewards.parsing import symbolic  # noqa: F401  (slow to import: before "ready")
    send(channel, {"status": "ready"})
    while (body := receive(channel)) is not None:
        deadline, job = pickle.loads(body)
        limit_cpu(deadline)
        start = time.perf_counter()
        reply = answer(job)
        reply["seconds"] = time.perf_counter() - start
        reply["rss_kb"] = resident_kb()
        send(channel, reply)


def resident_kb() -> int:
    """Return this process's resident memory in KiB.

    Not getrusage's ru_maxrss: that begins with the memory of the parent that started us, and a
    trainer's is large.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def answer(job: Job) -> dict[str, Any]:
    """Run one job. Whatever goes wrong in it is a status, not the end of the worker."""
    try:
        if isinstance(job, EqualJob):
            return equal(job)
        if isinstance(job, LoadJob):
            return find(job)
        return user(job)
    except MemoryError:
        return {"status": "memory", "reason": "out of memory"}
    except RecursionError:
        return {"status": "limit", "reason": "nested too deep"}
    except Exception as error:  # the boundary of a job: recorded as its reason
        return {"status": "error", "reason": f"raised {error!r}"[:500]}


def equal(job: EqualJob) -> dict[str, Any]:
    """Decide whether two cleaned texts are equal."""
    from sapo_vl.rewards.parsing import symbolic
    from sapo_vl.rewards.parsing.rationals import OverLimitError

    try:
        found = symbolic.equal(job.question.gold, job.question.answer, job.question.tolerance)
    except OverLimitError as error:
        return {"status": "limit", "reason": f"over a limit: {error}"}
    return {"status": "done", "equal": bool(found.equal), "reason": found.reason}


def user(job: UserJob) -> dict[str, Any]:
    """Call a user's function, sync or async, and check what it returns."""
    result = load(job.path, job.function)(job.sample, job.response)
    if inspect.isawaitable(result):
        result = asyncio.run(_wait(result))
    verdict = as_verdict(result)
    return {
        "status": "done",
        "outcome": verdict.outcome.value,
        "score": verdict.score,
        "reason": verdict.reason,
        "extracted": verdict.extracted,
    }


async def _wait(result: Any) -> Any:
    return await result


def find(job: LoadJob) -> dict[str, Any]:
    """Import a user's file and say what is wrong with it, if anything is."""
    if callable(load(job.path, job.function)):
        return {"status": "done"}
    return {"status": "error", "reason": f"{job.function!r} is not a function"}


@lru_cache(maxsize=64)
def load(path: str, function: str) -> Any:
    """Import a user's file by its path and return the function."""
    spec = importlib.util.spec_from_file_location(f"user_verifier_{Path(path).stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise AttributeError(f"has no function {function!r}")
    return getattr(module, function)


def as_verdict(result: Any) -> Verdict:
    """Turn what a user's function returned into a Verdict. Raises ValueError for anything else."""
    if isinstance(result, Verdict):
        return result
    value = float(result)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"returned {value}, allowed is a Verdict or a number in [0, 1]")
    outcome = Outcome.CORRECT if value >= 0.5 else Outcome.WRONG
    return Verdict(outcome, value, f"scored {value:g}")


def limit_cpu(deadline: float) -> None:
    """Let the kernel end a job that outlives its parent's deadline by far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + 4 * deadline) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Write one JSON message with its length in front."""
    body = json.dumps(message).encode(errors="backslashreplace")
    channel.sendall(HEADER.pack(len(body)) + body)


def receive(channel: socket.socket) -> bytes | None:
    """Read one message; None when the other side has closed."""
    header = _exactly(channel, HEADER.size)
    return None if header is None else _exactly(channel, HEADER.unpack(header)[0])


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        chunk = channel.recv(min(size - len(parts), 1 << 20))
        if not chunk:
            return None
        parts += chunk
    return bytes(parts)


if __name__ == "__main__":
    main()
