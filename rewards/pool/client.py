"""Ask the pool, remember what it said, and retry what failed.

Equal questions are asked once; "equal" and "not equal" are remembered, a failure never is. A job
that timed out, crashed or ran out of memory is tried once more, alone, with twice the time; then it
has no verdict, which the trainer masks. A job over a limit has no verdict at once.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sapo_vl.rewards.pool.jobs import EqualJob, Job, LoadJob, Question, Reply, UserJob
from sapo_vl.rewards.pool.processes import Pool
from sapo_vl.schema import Outcome, Sample, Verdict

LOAD_SECONDS = 60.0  # a user's file may import much
CACHE_SIZE = 200_000
_RETRIED = ("timeout", "crash", "memory")


class Referee:
    """Verdicts from workers. `counts` has one entry per status seen, and `retried`."""

    def __init__(self, workers: int | None = None, deadline: float = 2.0) -> None:
        count = workers or min(4, os.cpu_count() or 1)
        self.pool = Pool(count, deadline)
        self._user_pool = Pool(count, deadline, symbolic=False)
        self.deadline = deadline
        self.counts: Counter[str] = Counter()
        self._cache: OrderedDict[Question, Verdict] = OrderedDict()

    def decide(self, questions: Sequence[Question]) -> list[Verdict]:
        """Return one Verdict per question, in order."""
        known: dict[Question, Verdict] = {}
        for question in questions:
            if question in self._cache:
                self._cache.move_to_end(question)
                known[question] = self._cache[question]
        asked = [q for q in dict.fromkeys(questions) if q not in known]
        jobs = [EqualJob(question) for question in asked]
        answered = [_equal_verdict(r) for r in self._replies(self.pool, jobs)]
        for question, verdict in zip(asked, answered, strict=True):
            known[question] = verdict
            if verdict.outcome is not Outcome.NO_VERDICT:
                self._remember(question, verdict)
        fresh = set(asked)
        verdicts = []
        for question in questions:
            verdict = known[question]
            if question not in fresh and verdict.outcome is not Outcome.NO_VERDICT:
                verdict = replace(verdict, tier="cache", seconds=0.0)
            fresh.discard(question)
            verdicts.append(verdict)
        return verdicts

    def call_user(
        self, path: str, function: str, pairs: Sequence[tuple[Sample, str]]
    ) -> list[Verdict]:
        """Call a user's verifier on every (sample, response), in order."""
        full = str(Path(path).resolve())
        jobs: list[Job] = [UserJob(full, function, sample, response) for sample, response in pairs]
        if not jobs:
            return []
        # The file may import much: that time is not the response's. A worker loads it only once.
        load = [LoadJob(full, function)] * self._user_pool.size
        self._user_pool.run(load, deadline=LOAD_SECONDS)
        return [_user_verdict(reply) for reply in self._replies(self._user_pool, jobs, load[:1])]

    def check_user(self, path: str, function: str) -> str:
        """Import a user's file in a worker; return what is wrong, or an empty string."""
        job = LoadJob(str(Path(path).resolve()), function)
        reply = self._user_pool.run([job], deadline=LOAD_SECONDS)[0]
        return "" if reply.status == "done" else f"{reply.status}: {reply.reason}"

    def close(self) -> None:
        """End the workers. Calling it twice is fine."""
        self.pool.close()
        self._user_pool.close()

    def _replies(self, pool: Pool, jobs: Sequence[Job], load: Sequence[Job] = ()) -> list[Reply]:
        replies = pool.run(jobs) if jobs else []
        for i, reply in enumerate(replies):
            if reply.status in _RETRIED:
                self.counts["retried"] += 1
                if load:  # the worker may be a new one
                    pool.run(load, deadline=LOAD_SECONDS)
                replies[i] = pool.run([jobs[i]], deadline=2 * self.deadline)[0]
        self.counts.update(reply.status for reply in replies)
        return replies

    def _remember(self, question: Question, verdict: Verdict) -> None:
        self._cache[question] = Verdict(
            verdict.outcome, verdict.score, verdict.reason, tier="cache"
        )
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)


def _equal_verdict(reply: Reply) -> Verdict:
    if reply.status != "done":
        return Verdict(
            Outcome.NO_VERDICT,
            0.0,
            f"{reply.status}: {reply.reason}",
            None,
            reply.seconds,
            "symbolic",
        )
    outcome = Outcome.CORRECT if reply.equal else Outcome.WRONG
    return Verdict(outcome, float(bool(reply.equal)), reply.reason, None, reply.seconds, "symbolic")


def _user_verdict(reply: Reply) -> Verdict:
    if reply.status != "done":
        return Verdict(
            Outcome.NO_VERDICT, 0.0, f"{reply.status}: {reply.reason}", None, reply.seconds, "user"
        )
    return Verdict(
        Outcome(reply.outcome), reply.score, reply.reason, reply.extracted, reply.seconds, "user"
    )


@lru_cache(maxsize=1)
def shared() -> Referee:
    """The referee of verifiers that are called one by one; its workers end with this process."""
    referee = Referee(workers=1)
    atexit.register(referee.close)
    return referee
