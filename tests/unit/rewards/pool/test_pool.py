"""The worker pool: deadlines, kills, crashes, memory, user verifiers, the cache."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sapo_vl.errors import ConfigError
from sapo_vl.rewards.parsing.exact_decider import Tolerance
from sapo_vl.rewards.pool.client import PoolClient
from sapo_vl.rewards.pool.jobs import LoadJob, Question, Reply, UserJob
from sapo_vl.rewards.pool.processes import Pool
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Outcome, Sample

USER = """
import asyncio, os, signal, time
from sapo_vl.schema import Outcome, Verdict

def fine(sample, response):
    return Verdict(Outcome.CORRECT, 0.75, "fine", extracted=response)

async def later(sample, response):
    await asyncio.sleep(0.01)
    return 0.25

def hangs(sample, response):
    time.sleep(60 if response == "hang" else 0)
    return 1.0

def spins(sample, response):
    while True:
        pass

def dies(sample, response):
    if response == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

def grows(sample, response):
    if response == "grow":
        return float(len(bytearray(8 * 2**30)))
    return 1.0

def prints(sample, response):
    print("x" * 100000)
    return 1.0

def leaves(sample, response):
    raise SystemExit(3)
"""
ONE = Sample("t-1", "test", "t", "?", (), "8")


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER)
    return str(path)


@pytest.fixture
def pool():
    made = Pool(workers=2, deadline=1.0, symbolic=False)
    yield made
    made.close()


def job(path, function, response="r"):
    return UserJob(f"{path}:{function}", ONE, response)


def test_replies_come_in_order(pool, user):
    names = ["fine", "later", "fine", "later"]
    replies = pool.run([job(user, name, str(i)) for i, name in enumerate(names)])
    assert [r.status for r in replies] == ["done"] * 4
    assert [r.score for r in replies] == [0.75, 0.25, 0.75, 0.25]
    assert [r.extracted for r in replies] == ["0", None, "2", None]


def test_a_hanging_job_is_killed_and_the_others_are_not(pool, user):
    jobs = [job(user, "hangs", "hang" if i == 3 else "go") for i in range(12)]
    start = time.monotonic()
    replies = pool.run(jobs)
    assert [r.status for r in replies] == ["done"] * 3 + ["timeout"] + ["done"] * 8
    assert pool.kills == 1
    assert time.monotonic() - start < 20
    assert pool.run([job(user, "fine")])[0].status == "done"


def test_a_worker_that_dies_or_grows_ends_its_job_only(pool, user):
    replies = pool.run([job(user, "dies", r) for r in ("go", "die", "go")])
    assert [r.status for r in replies] == ["done", "crash", "done"]
    replies = pool.run([job(user, "grows", r) for r in ("go", "grow", "go")])
    assert [r.status for r in replies] == ["done", "memory", "done"]
    assert pool.run([job(user, "leaves")])[0].status == "crash"
    assert pool.run([job(user, "prints")])[0].status == "done"


def test_an_idle_worker_that_was_killed_is_replaced(pool, user):
    pool.run([job(user, "fine")] * 2)
    for worker in pool._workers:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    assert [r.status for r in pool.run([job(user, "fine")] * 4)] == ["done"] * 4


def test_close_leaves_no_process(pool, user):
    pool.run([job(user, "fine")] * 2)
    pids = [worker.process.pid for worker in pool._workers]
    pool.close()
    pool.close()
    assert pool._workers == []
    left = subprocess.run(
        ["ps", "-o", "stat=", "-p", ",".join(map(str, pids))], capture_output=True
    )
    assert not left.stdout.strip()


def test_a_worker_outlives_neither_its_parent_nor_its_work(user):
    code = (
        "import os, sys; from sapo_vl.rewards.pool.processes import Pool\n"
        "from sapo_vl.rewards.pool.jobs import UserJob; from sapo_vl.schema import Sample\n"
        "p = Pool(1, symbolic=False)\n"
        f"p.run([UserJob({user!r} + ':fine', Sample('a', 'b', 'c', 'd', (), 'e'), 'r')])\n"
        "print(p._workers[0].process.pid, flush=True); os._exit(1)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(out.stdout)
    for _ in range(50):
        stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
        if not stat.stdout.strip() or "Z" in stat.stdout:
            return
        time.sleep(0.1)
    pytest.fail(f"worker {pid} is still there")


def test_a_timeout_is_retried_once_and_then_no_verdict(user):
    rubric = Rubric.from_terms([("boxed", 1.0), (f"{user}:hangs", 1.0)], workers=2, deadline=0.3)
    rewards = rubric.grade([(ONE, "go"), (ONE, "hang"), (ONE, "go")])
    verdicts = [r.terms[f"{user}:hangs"] for r in rewards]
    assert [v.outcome for v in verdicts] == [Outcome.CORRECT, Outcome.NO_VERDICT, Outcome.CORRECT]
    assert [r.valid for r in rewards] == [True, False, True]
    assert "0.6 s" in verdicts[1].reason  # the retry had twice the time
    rubric.close()


def test_a_missing_user_function_is_a_config_error(user):
    with pytest.raises(ConfigError, match=r"rewards\[0\].fn.*'absent'"):
        Rubric.from_terms([(f"{user}:absent", 1.0)])


class _FakePool:
    """Answers from a script and counts what it was asked."""

    kills, kind = 0, "symbolic"

    def __init__(self, *replies):
        self.script, self.asked = list(replies), []

    def run(self, jobs, deadline=None, give_up=False):
        self.asked.append((len(jobs), deadline))
        return [self.script.pop(0) for _ in jobs]

    def close(self):
        pass


def test_equal_questions_are_asked_once_and_failures_are_not_remembered():
    client = PoolClient(workers=1, deadline=1.0)
    a, b = (Question("x", text, Tolerance()) for text in ("a", "b"))
    client.pool = fake = _FakePool(
        Reply("done", "equal", 0.1, "correct", 1.0),
        Reply("timeout", "late", 1.0),
        Reply("timeout", "late again", 2.0),
        Reply("done", "not equal", 0.1, "wrong", 0.0),
    )
    first = client.decide([a, b, a])
    assert [v.outcome for v in first] == [Outcome.CORRECT, Outcome.NO_VERDICT, Outcome.CORRECT]
    assert [v.tier for v in first] == ["symbolic", "symbolic", "cache"]
    assert fake.asked == [(2, None), (1, 2.0)]
    second = client.decide([a, b])
    assert [v.outcome for v in second] == [Outcome.CORRECT, Outcome.WRONG]
    assert fake.asked[2:] == [(1, None)]
    client.close()


def test_a_script_without_a_main_guard_can_use_the_pool(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os; from sapo_vl.rewards.pool.processes import Pool\n"
        "from sapo_vl.rewards.pool.jobs import LoadJob\n"
        "pool = Pool(1, symbolic=False)\n"
        "print(pool.run([LoadJob(os.__file__ + ':getcwd', 'rewards')])[0].status, flush=True)\n"
        "pool.close()\n"
    )
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    out = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert out.stdout.split() == ["done"]


def test_a_large_parent_does_not_wear_its_workers_out():
    ballast = bytearray(900 * 2**20)  # more than a worker may hold; touched, so that it is resident
    ballast[::4096] = b"x" * len(ballast[::4096])
    pool = Pool(workers=1, deadline=10.0, symbolic=False)
    try:
        jobs = [LoadJob(f"{os.__file__}:getcwd", "rewards")] * 5
        assert [reply.status for reply in pool.run(jobs)] == ["done"] * 5
        assert [worker.jobs_done for worker in pool._workers] == [5]  # not recycled
    finally:
        pool.close()
    assert ballast[0] == ord("x")
