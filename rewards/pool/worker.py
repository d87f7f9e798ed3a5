"""A worker process of the pool (processes.py): runs jobs from a socket, one at a time.

    python -m sapo_vl.rewards.pool.worker SOCKET_FD MEMORY_BYTES KIND     KIND: symbolic or plain

The parent may kill it at any moment. It limits its own memory, writes no core file, sets a CPU-time
limit per job in case the parent can't kill it, and exits when the parent closes the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import pickle
import resource
import socket
import struct
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sapo_vl import plugins
from sapo_vl.errors import ConfigError
from sapo_vl.rewards.pool.jobs import EqualJob, LoadJob, Reply, RewardJob, UserJob
from sapo_vl.schema import Outcome, Verdict

HEADER = struct.Struct("!I")
"""The length of the message body that follows, in bytes."""

MAX_TEXT = 2000  # characters of a reason or an extracted answer

_loaded: dict[str, Any] = {}  # target -> a user's function


def main() -> None:
    """Set the limits, report "ready", and run jobs until the socket closes."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)  # a program that a user's function starts must not hold it open
    process = os.getpid()
    memory = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if sys.argv[3] == "symbolic":
        from sapo_vl.rewards.parsing import symbolic  # noqa: F401  (slow to import: before "ready")
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        _send(channel, {"status": "ready"})
        while (body := receive(channel)) is not None:
            deadline, job = pickle.loads(body)
            _limit_cpu(deadline)
            start = time.perf_counter()
            reply = replace(run_job(job), seconds=time.perf_counter() - start)
            if os.getpid() != process:
                os._exit(0)  # a user's function forked, and this is the child: no second reply
            _send(channel, asdict(reply) | {"rss_kb": _resident_kb()})


def _resident_kb() -> int:
    """Return this process's resident memory in KiB.

    Not getrusage's ru_maxrss: that starts at the resident size of the parent that spawned the
    worker, and a trainer's is large.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def run_job(job: RewardJob) -> Reply:
    """Run one job. An exception becomes the reply's status."""
    try:
        if isinstance(job, EqualJob):
            return _decide(job)
        if isinstance(job, LoadJob):
            return _check(job)
        return _call(job)
    except MemoryError:
        return Reply("memory", "out of memory")
    except RecursionError:
        return Reply("limit", "nested too deep")
    except WrongResultError as error:
        return Reply("error", str(error))
    except Exception as error:  # the boundary of a job: recorded as its reason
        return Reply("error", _raised(error))


def _raised(error: Exception) -> str:
    try:
        return f"raised {error!r}"[:500]
    except Exception:  # a repr of the user's that raises itself
        return f"raised {type(error).__name__}"


def _decide(job: EqualJob) -> Reply:
    from sapo_vl.rewards.parsing import symbolic
    from sapo_vl.rewards.parsing.rationals import OverLimitError

    question = job.question
    try:
        equal, reason = symbolic.equal(question.gold, question.answer, question.tolerance)
    except OverLimitError as error:
        return Reply("limit", f"over a limit: {error}")
    outcome = Outcome.CORRECT if equal else Outcome.WRONG
    return Reply("done", reason, outcome=outcome.value, score=float(equal))


def _check(job: LoadJob) -> Reply:
    try:
        function = _load(job.target, job.key)
    except ConfigError as error:
        return Reply("error", str(error))
    if callable(function):
        return Reply("done")
    return Reply("error", f"{job.key}: {job.target} is not a function")


def _call(job: UserJob) -> Reply:
    """Call a user's function, sync or async, and check its result."""
    result = _load(job.target)(job.sample, job.response)
    if inspect.isawaitable(result):
        result = asyncio.run(_await(result))
    verdict = as_verdict(result)
    return Reply(
        "done",
        verdict.reason,
        outcome=verdict.outcome.value,
        score=verdict.score,
        extracted=verdict.extracted,
    )


async def _await(result: Any) -> Any:
    return await result


def _load(target: str, key: str = "rewards") -> Any:
    """Import a user's file once and return the function. Raises ConfigError naming `key`."""
    if target not in _loaded:
        _loaded[target] = plugins.load(target, key).value
    return _loaded[target]


class WrongResultError(Exception):
    """A user's function returned neither a Verdict nor a number in [0, 1]."""


def as_verdict(result: Any) -> Verdict:
    """Return the Verdict for a user function's result. Raises WrongResultError for a wrong one.

    Right is a Verdict whose score is in [0, 1], or a number in [0, 1]: also a bool, a numpy scalar
    or a tensor with one element.
    """
    if not isinstance(result, Verdict):
        score = _score(result, "returned")
        outcome = Outcome.CORRECT if score >= 0.5 else Outcome.WRONG
        return Verdict(outcome, score, f"scored {score:g}")
    try:
        outcome = Outcome(result.outcome)
    except ValueError:
        reason = f"returned a Verdict with the outcome {result.outcome!r}"[:200]
        raise WrongResultError(reason) from None
    score = 0.0
    if outcome is not Outcome.NO_VERDICT:
        score = _score(result.score, "returned a Verdict with the score")
    extracted = None if result.extracted is None else str(result.extracted)[:MAX_TEXT]
    return Verdict(outcome, score, str(result.reason)[:MAX_TEXT], extracted)


def _score(value: Any, what: str) -> float:
    """Return a number in [0, 1] as a float. Raises WrongResultError that begins with `what`."""
    allowed = "allowed is a Verdict or a number in [0, 1]"
    if value is None or isinstance(value, str | bytes | bytearray):
        raise WrongResultError(f"{what} {value!r}"[:200] + f", {allowed}")
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise WrongResultError(f"{what} a {type(value).__name__}, {allowed}") from None
    if not 0.0 <= score <= 1.0:
        raise WrongResultError(f"{what} {score}, {allowed}")
    return score


def _limit_cpu(deadline: float) -> None:
    """Let the kernel kill a job that runs far beyond its deadline."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime + 4 * deadline) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode(errors="backslashreplace")
    channel.sendall(HEADER.pack(len(body)) + body)


def receive(channel: socket.socket) -> bytes | None:
    """Read one message body; None when the other end has closed."""
    header = _read_exactly(channel, HEADER.size)
    return None if header is None else _read_exactly(channel, HEADER.unpack(header)[0])


def _read_exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = channel.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


if __name__ == "__main__":
    main()
