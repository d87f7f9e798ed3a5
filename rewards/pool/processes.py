"""Persistent worker processes that can be killed at any moment.

    pool = Pool(workers=4, deadline=2.0)
    replies = pool.run(jobs)      # one Reply per job, in order
    pool.close()

One job is in flight per worker. The deadline counts from dispatch on a monotonic clock; a worker
that misses it is killed, reaped and replaced, and its job ends as a timeout (client.py retries).
Workers are plain subprocesses: forking a process that has threads or a CUDA context isn't safe, and
`__main__` is not imported again. They are recycled after `MAX_JOBS` jobs or above `MAX_RSS_KB` of
memory. Thread-safe: concurrent `run` calls are serialised.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import selectors
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
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()

    def run(self, jobs: Sequence[RewardJob], deadline: float | None = None) -> list[Reply]:
        """Return one Reply per job, in order. Raises RuntimeError when no worker can start."""
        with self._lock:
            return self._run(jobs, deadline or self.deadline)

    def close(self) -> None:
        """Kill and reap all workers. Idempotent."""
        with self._lock:
            for worker in list(self._workers):
                self._stop(worker)

    def _run(self, jobs: Sequence[RewardJob], deadline: float) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(jobs)
        queue = deque(range(len(jobs)))
        while queue or any(worker.job is not None for worker in self._workers):
            while len(self._workers) < min(self.size, len(queue)):
                self._start()
            for worker in self._workers:
                if queue and worker.is_ready and worker.job is None:
                    self._dispatch(worker, queue, jobs, deadline)
            next_expiry = min((w.expires for w in self._workers), default=math.inf)
            timeout = None if next_expiry == math.inf else max(0.0, next_expiry - time.monotonic())
            for key, _ in self._selector.select(timeout):
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
        worker = _Worker(process, parent_end, expires=time.monotonic() + START_SECONDS)
        self._workers.append(worker)
        self._selector.register(parent_end, selectors.EVENT_READ, worker)

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
        try:
            body = receive(worker.channel)
        except OSError:
            body = None
        if body is None:
            self._handle_exit(worker, replies)
            return
        message: dict[str, Any] = json.loads(body)
        worker.expires = math.inf
        if message["status"] == "ready":
            worker.is_ready, self._failed_starts = True, 0
            return
        assert worker.job is not None, message
        rss = message.pop("rss_kb")
        replies[worker.job] = Reply(**message)
        worker.job = None
        worker.jobs_done += 1
        if worker.jobs_done >= MAX_JOBS or rss > MAX_RSS_KB:
            self._stop(worker)

    def _handle_exit(self, worker: _Worker, replies: list[Reply | None]) -> None:
        self._stop(worker)
        code = worker.process.returncode
        if worker.job is not None:
            replies[worker.job] = Reply("crash", f"the worker ended with code {code}")
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise RuntimeError(f"a verifier worker doesn't start (exit code {code})")
        self._start()

    def _kill_expired(self, replies: list[Reply | None], deadline: float) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if w.expires <= now]:
            self._stop(worker)
            self.kills += 1
            if worker.job is not None:
                replies[worker.job] = Reply("timeout", f"no answer within {deadline:g} s", deadline)
                self._start()
            elif not worker.is_ready:
                raise RuntimeError(f"a verifier worker isn't ready after {START_SECONDS:g} s")

    def _stop(self, worker: _Worker) -> None:
        """Kill a worker, reap it and drop it from the pool."""
        self._workers.remove(worker)
        self._selector.unregister(worker.channel)
        worker.channel.close()
        worker.process.kill()
        worker.process.wait()
