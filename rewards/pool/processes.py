"""Persistent worker processes that can be killed at any moment.

    pool = Pool(workers=4, deadline=2.0)
    replies = pool.run(jobs)      # one Reply per job, in order
    pool.close()

One job is in flight per worker. The deadline counts from dispatch on a monotonic clock; a worker
that misses it is killed with its process group, reaped and replaced, and its job ends as a timeout
(client.py retries). With `give_up`, jobs that have not started end as "not asked" once at least
`MIN_FAILED` jobs got no answer (deadline, crash, memory) and these are more than half of all that
ended: a function that hangs every time costs seconds, not hours.
Workers are plain subprocesses: forking a process that has threads or a CUDA context isn't safe, and
`__main__` is not imported again. They are recycled after `MAX_JOBS` jobs or above `MAX_RSS_KB` of
memory. Thread-safe: concurrent `run` calls are serialised.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sapo_vl.rewards.pool.jobs import Reply, RewardJob
from sapo_vl.rewards.pool.worker import HEADER, receive

START_SECONDS = 180.0  # a worker that isn't ready by then has failed to start
MAX_FAILED_STARTS = 3
MAX_JOBS = 2000
MAX_RSS_KB = 700_000
MIN_FAILED = 8
SOCKET_SECONDS = 10.0  # for a message that has begun; a worker that stops in it has crashed
LEAVING_SECONDS = 1.0  # between a worker's last message and its end
FAILED = ("timeout", "crash", "memory")
"""Statuses of a job whose worker gave no answer."""
_ENVIRONMENT = {
    "SYMPY_GROUND_TYPES": "python",  # with gmpy2 a huge power can't be interrupted, or aborts
    "MPMATH_NOGMPY": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    pidfd: int  # readable once the process has ended, even if a child of it holds the channel
    is_ready: bool = False
    jobs_done: int = 0
    job: int | None = None  # index of the job in flight
    expires: float = field(default=math.inf)  # monotonic time at which it is killed


class Pool:
    """Worker processes and the loop that feeds them. `kills` counts from the start."""

    def __init__(
        self, workers: int = 2, deadline: float = 2.0, memory_gb: float = 3.0, symbolic: bool = True
    ) -> None:
        """`deadline`: seconds per job; `memory_gb`: address space of a worker, in GiB."""
        self.size = workers
        self.deadline = deadline
        self.memory = int(memory_gb * 2**30)
        self.kind = "symbolic" if symbolic else "plain"
        self.kills = 0
        self._failed_starts = 0
        self._failed = 0  # jobs of this run whose worker gave no answer
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()

    def run(
        self, jobs: Sequence[RewardJob], deadline: float | None = None, give_up: bool = False
    ) -> list[Reply]:
        """Return one Reply per job, in order. Raises RuntimeError when no worker can start."""
        with self._lock:
            return self._run(jobs, deadline or self.deadline, give_up)

    def close(self) -> None:
        """Kill and reap all workers. Idempotent."""
        with self._lock:
            for worker in list(self._workers):
                self._stop(worker)

    def _run(self, jobs: Sequence[RewardJob], deadline: float, give_up: bool) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(jobs)
        queue = deque(range(len(jobs)))
        self._failed = 0
        while queue or any(worker.job is not None for worker in self._workers):
            in_flight = sum(worker.job is not None for worker in self._workers)
            ended = len(jobs) - len(queue) - in_flight
            if give_up and queue and self._failed >= MIN_FAILED and 2 * self._failed > ended:
                for index in queue:
                    replies[index] = Reply("not asked", "most calls before it had no answer")
                queue.clear()
                continue
            while len(self._workers) < min(self.size, len(queue)):
                self._start()
            for worker in self._workers:
                if queue and worker.is_ready and worker.job is None:
                    self._dispatch(worker, queue, jobs, deadline)
            next_expiry = min((w.expires for w in self._workers), default=math.inf)
            timeout = None if next_expiry == math.inf else max(0.0, next_expiry - time.monotonic())
            for key, _ in self._selector.select(timeout):
                if key.data in self._workers:  # not stopped by the event before
                    self._receive(key.data, replies)
            self._kill_expired(replies, deadline)
        return [reply for reply in replies if reply is not None]

    def _start(self) -> None:
        parent_end, worker_end = socket.socketpair()
        fd = worker_end.fileno()
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        command = (sys.executable, "-m", "sapo_vl.rewards.pool.worker")
        process = subprocess.Popen(
            [*command, str(fd), str(self.memory), self.kind],
            pass_fds=[fd],
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        worker_end.close()
        parent_end.settimeout(SOCKET_SECONDS)
        pidfd = os.pidfd_open(process.pid)
        worker = _Worker(process, parent_end, pidfd, expires=time.monotonic() + START_SECONDS)
        self._workers.append(worker)
        self._selector.register(parent_end, selectors.EVENT_READ, worker)
        self._selector.register(pidfd, selectors.EVENT_READ, worker)

    def _dispatch(
        self, worker: _Worker, queue: deque[int], jobs: Sequence[RewardJob], deadline: float
    ) -> None:
        index = queue.popleft()
        body = pickle.dumps((deadline, jobs[index]))
        worker.job, worker.expires = index, time.monotonic() + deadline
        try:
            worker.channel.sendall(HEADER.pack(len(body)) + body)
        except OSError:  # the worker died while idle: requeue the job, which has not started
            queue.appendleft(index)
            worker.job = None
            self._stop(worker)

    def _receive(self, worker: _Worker, replies: list[Reply | None]) -> None:
        message: dict[str, Any] | None = None
        try:
            # Readable, or its process has ended and perhaps left nothing in the channel.
            if _is_readable(worker.channel.fileno(), 0):
                body = receive(worker.channel)
                message = None if body is None else json.loads(body)
        except (OSError, ValueError):
            message = None
        if message is None or not self._take(worker, message, replies):
            self._handle_exit(worker, replies)

    def _take(self, worker: _Worker, message: Any, replies: list[Reply | None]) -> bool:
        """Accept a worker's message; False for one that no worker of ours sends."""
        if not isinstance(message, dict):
            return False
        if message.get("status") == "ready":
            worker.is_ready, worker.expires, self._failed_starts = True, math.inf, 0
            return True
        try:
            rss = message.pop("rss_kb")
            reply = Reply(**message)
        except (KeyError, TypeError):
            return False
        if worker.job is None:
            return False
        replies[worker.job] = reply
        self._failed += reply.status in FAILED
        worker.job, worker.expires = None, math.inf
        worker.jobs_done += 1
        if worker.jobs_done >= MAX_JOBS or rss > MAX_RSS_KB:
            self._stop(worker)
        return True

    def _handle_exit(self, worker: _Worker, replies: list[Reply | None]) -> None:
        _is_readable(worker.pidfd, LEAVING_SECONDS)
        how = self._stop(worker)
        if worker.job is not None:
            replies[worker.job] = Reply("crash", f"the worker {how}")
            self._failed += 1
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise RuntimeError(f"a verifier worker doesn't start: it {how}")
        self._start()

    def _kill_expired(self, replies: list[Reply | None], deadline: float) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if w.expires <= now]:
            self._stop(worker)
            self.kills += 1
            if worker.job is not None:
                replies[worker.job] = Reply("timeout", f"no answer within {deadline:g} s", deadline)
                self._failed += 1
                self._start()
            elif not worker.is_ready:
                raise RuntimeError(f"a verifier worker isn't ready after {START_SECONDS:g} s")

    def _stop(self, worker: _Worker) -> str:
        """Kill a worker and its children, reap it and drop it; return how it ended, in words."""
        self._workers.remove(worker)
        self._selector.unregister(worker.channel)
        self._selector.unregister(worker.pidfd)
        worker.channel.close()
        os.close(worker.pidfd)
        code = worker.process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)  # its own session: its children as well
        worker.process.wait()
        if code is None:
            return "was killed"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"left with exit code {code}"


def _is_readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
