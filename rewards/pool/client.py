"""Verdicts from the worker pools: batching, a cache, and one retry.

Equal questions of a batch are asked once. "Equal" and "not equal" are cached, failures never. A job
that timed out, crashed or ran out of memory is retried once, alone, with twice the deadline; if it
fails again it has no verdict, and the trainer masks the response. After MAX_FAILED_RETRIES retries
of a batch that failed again, the others aren't retried. A job over a limit has no verdict at once.
A user's function that mostly gives no answer is not asked further in that batch (processes.py).
"""

from __future__ import annotations

import atexit
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sapo_vl.errors import ConfigError
from sapo_vl.rewards.pool.jobs import (
    EqualJob,
    LoadJob,
    NeedsWorker,
    Question,
    Reply,
    RewardJob,
    UserJob,
)
from sapo_vl.rewards.pool.processes import FAILED, Pool
from sapo_vl.schema import Outcome, Sample, Verdict

LOAD_SECONDS = 60.0  # a user's file may import large packages
CACHE_SIZE = 200_000
MAX_FAILED_RETRIES = {"symbolic": 8, "plain": 2}  # by the pool's kind


class PoolClient:
    """Verdicts from workers, through a cache. `close` ends the workers."""

    def __init__(self, workers: int | None = None, deadline: float = 2.0) -> None:
        """`workers`: up to 4 by default; `deadline`: seconds per job."""
        size = workers or min(4, os.cpu_count() or 1)
        self.pool = Pool(size, deadline)
        self._user_pool = Pool(size, deadline, symbolic=False)
        self.deadline = deadline
        self._cache: OrderedDict[Question, Verdict] = OrderedDict()

    def decide(self, questions: Sequence[Question]) -> list[Verdict]:
        """Return one Verdict per question, in order."""
        verdicts: dict[Question, Verdict] = {}
        for question in questions:
            if question in self._cache:
                self._cache.move_to_end(question)
                verdicts[question] = self._cache[question]
        misses = [q for q in dict.fromkeys(questions) if q not in verdicts]
        replies = self._run(self.pool, [EqualJob(question) for question in misses])
        for question, reply in zip(misses, replies, strict=True):
            verdicts[question] = verdict = _verdict(reply, "symbolic")
            if verdict.outcome is not Outcome.NO_VERDICT:
                self._store(question, verdict)
        unseen = set(misses)
        in_order = []
        for question in questions:
            verdict = verdicts[question]
            if question not in unseen and verdict.outcome is not Outcome.NO_VERDICT:
                verdict = replace(verdict, tier="cache", seconds=0.0)
            unseen.discard(question)
            in_order.append(verdict)
        return in_order

    def resolve_all(self, results: Sequence[Verdict | NeedsWorker]) -> list[Verdict]:
        """Replace each NeedsWorker by its verdict, asking the workers in one batch."""
        questions = [result.question for result in results if isinstance(result, NeedsWorker)]
        decisions = iter(self.decide(questions))
        return [
            replace(next(decisions), extracted=result.extracted)
            if isinstance(result, NeedsWorker)
            else result
            for result in results
        ]

    def call_user(self, target: str, pairs: Sequence[tuple[Sample, str]]) -> list[Verdict]:
        """Call the user's verifier `path/to/file.py:function` on every (sample, response)."""
        if not pairs:
            return []
        target = _absolute(target)
        # Imported before the clock of the first response starts; a worker imports a file once.
        load = [LoadJob(target, "rewards")] * self._user_pool.size
        self._user_pool.run(load, deadline=LOAD_SECONDS)
        jobs = [UserJob(target, sample, response) for sample, response in pairs]
        return [_verdict(reply, "user") for reply in self._run(self._user_pool, jobs, load[:1])]

    def check_user(self, target: str, key: str) -> None:
        """Import `path/to/file.py:function` in a worker. Raises ConfigError naming `key`."""
        reply = self._user_pool.run([LoadJob(_absolute(target), key)], deadline=LOAD_SECONDS)[0]
        if reply.status == "error":
            raise ConfigError(reply.reason)
        if reply.status != "done":
            raise ConfigError(f"{key}: importing {target} failed: {reply.status}: {reply.reason}")

    def close(self) -> None:
        """Stop the workers. Idempotent."""
        self.pool.close()
        self._user_pool.close()

    def _run(
        self, pool: Pool, jobs: Sequence[RewardJob], load: Sequence[LoadJob] = ()
    ) -> list[Reply]:
        """Run the jobs, with one retry; `load` runs before a retry, whose worker may be new."""
        is_user = bool(load)
        replies = pool.run(jobs, give_up=is_user) if jobs else []
        gave_up = any(reply.status == "not asked" for reply in replies)
        allowed = 0 if gave_up else MAX_FAILED_RETRIES[pool.kind]
        for i, reply in enumerate(replies):
            if allowed == 0:
                break
            if reply.status in FAILED:
                if load:
                    pool.run(load, deadline=LOAD_SECONDS)
                replies[i] = pool.run([jobs[i]], deadline=2 * self.deadline)[0]
                allowed -= replies[i].status in FAILED
        return replies

    def _store(self, question: Question, verdict: Verdict) -> None:
        self._cache[question] = replace(verdict, tier="cache", seconds=0.0)
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)


def resolve(result: Verdict | NeedsWorker) -> Verdict:
    """Return one verifier's result as a Verdict, asking the shared pool where it needs a worker."""
    return result if isinstance(result, Verdict) else shared().resolve_all([result])[0]


@lru_cache(maxsize=1)
def shared() -> PoolClient:
    """The client of verifiers that are called one by one; its workers end with this process."""
    client = PoolClient(workers=1)
    atexit.register(client.close)
    return client


def _verdict(reply: Reply, tier: str) -> Verdict:
    """Return the verdict of a finished job; a failed one has no verdict."""
    if reply.status != "done":
        reason = f"{reply.status}: {reply.reason}"
        return Verdict(Outcome.NO_VERDICT, 0.0, reason, None, reply.seconds, tier)
    outcome = Outcome(reply.outcome)
    return Verdict(outcome, reply.score, reply.reason, reply.extracted, reply.seconds, tier)


def _absolute(target: str) -> str:
    file, _, function = target.rpartition(":")
    return f"{Path(file).resolve()}:{function}"
