"""Symbolic equality in real workers: verdicts, limits, independence of the worker count."""

import importlib.util

import pytest

pytest.importorskip("math_verify")
from sapo_vl.rewards.parsing.exact_decider import Tolerance
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.pool.client import PoolClient
from sapo_vl.rewards.pool.jobs import EqualJob, Question
from sapo_vl.rewards.pool.processes import Pool
from sapo_vl.schema import Outcome

pytestmark = pytest.mark.slow

CASES = [
    (r"2\sqrt{2}", r"\sqrt{8}", True),
    ("x+1", "1+x", True),
    ("x+1", "w+1", False),
    ("(x+1)^2", "x^2+2x+1", True),
    ("(x+1)^2", "x^2+2x+2", False),
    (r"\frac{-1+\sqrt{5}}{2}", r"\dfrac{\sqrt{5}-1}{2}", True),
    (r"5\sqrt[3]{4}", r"5 \cdot 2^{2/3}", True),
    (r"2\arcsin\sqrt{a}", r"\arccos(1-2a)", True),
    (r"\pi", "3.14159265358979", True),  # nobody writes ten right digits by chance
    (r"\pi", "3.14159265358978", False),
    (r"\pi", "3.14159", False),
    (r"\frac{\sqrt2}{2}", "0.7071", False),
    ("y=2x+1", "2x-y+1=0", True),
    ("y=2x+1", "2x-y+2=0", False),
    ("34x+45y-20z+100=0", "-34x-45y+20z-100=0", True),
    ("x \\le 1", "-x \\ge -1", True),
    ("x \\le 1", "-x \\le -1", False),
    (r"x=k\pi", r"n\pi", True),
    (r"x=k\pi", r"2n\pi", False),
    (r"(\pm\sqrt{2}, 0)", r"(-\sqrt{2}, 0), (\sqrt{2}, 0)", True),
    (r"\ln 2", r"\log 2", True),
    ("abc", "abd", False),
    (r"4", r"4\sqrt{2}", False),
    (r"\sqrt{3}-1", "-1 + sqrt(3)", True),
]
OVER = [
    r"9^{9^{9^{9}}}",
    r"(10^{9})!",
    r"2^{2^{2^{49}}}",
    r"\sqrt{2^{100000000}}",
    "1+" * 900 + "x",
]


def questions():
    return [Question(clean(gold), clean(answer), Tolerance()) for gold, answer, _ in CASES]


def test_symbolic_equality():
    client = PoolClient(workers=2, deadline=5.0)
    verdicts = client.decide(questions())
    wrong = [
        (case, verdict.reason)
        for case, verdict in zip(CASES, verdicts, strict=True)
        if (verdict.outcome is Outcome.CORRECT) is not case[2]
    ]
    assert not wrong
    client.close()


def test_over_a_limit_there_is_no_verdict_and_no_wait():
    client = PoolClient(workers=1, deadline=5.0)
    for answer in OVER:
        for gold in (r"\frac{1}{3}", "x+1", r"\sqrt{2}"):
            (verdict,) = client.decide([Question(clean(gold), clean(answer), Tolerance())])
            assert verdict.outcome is not Outcome.CORRECT
            assert verdict.seconds < 1
    assert client.pool.kills == 0
    client.close()


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_the_same_verdicts_with_any_number_of_workers(workers):
    client = PoolClient(workers=workers, deadline=10.0)
    verdicts = client.decide(questions())
    assert [v.outcome is Outcome.CORRECT for v in verdicts] == [case[2] for case in CASES]
    client.close()


@pytest.mark.skipif(importlib.util.find_spec("gmpy2") is None, reason="gmpy2 is not installed")
def test_workers_leave_gmpy2_alone():
    """With gmpy2 `2^{2^{2^{49}}}` aborts a process and `99999999!` cannot be interrupted."""
    pool = Pool(workers=1, deadline=5.0)
    reply = pool.run([EqualJob(Question("1", r"\gcd(10^{10^7}, 6^{10^7})", Tolerance()))])[0]
    assert reply.status in ("timeout", "limit", "memory")
    pool.close()
