"""Throughput of the verifiers, also with hanging answers among easy ones.

    SAPO_TEST_HANGING=100 python -m pytest tests/integration/test_rewards_speed.py -s

Rates are asserted at a third of what one idle core reaches, as test machines are shared.
"""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("math_verify")
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.rewards.verifiers import maths
from sapo_vl.schema import Outcome, Sample

pytestmark = pytest.mark.slow

WORKING = "The triangle has sides of 3 and 4, so the hypotenuse follows from the theorem. " * 12
HANGS = [
    r"\lfloor 10^{10^{8}} \rfloor",
    r"\gcd(10^{10^7}, 6^{10^7})",
    r"9^{9^{9^{9}}}",
    r"(10^{9})!",
    r"e^{e^{e^{e^{10}}}}",
    r"\sum_{k=1}^{10^{9}} \frac{1}{k^2}",
    r"\binom{1000000}{500000}",
]


HANGING = int(os.environ.get("SAPO_TEST_HANGING", "14"))
"""Hanging answers among the easy ones; docs/verifiers.md has the figures of 100."""


def easy(count, seed=0):
    """Boxed responses of a model's usual kind; half of them are right."""
    draw = random.Random(seed)
    pairs = []
    for i in range(count):
        value = draw.randrange(-5000, 50000)
        gold, answer = draw.choice(
            [
                (str(value), str(value)),
                (str(value), f"{value}.0"),
                (f"{value}/7", rf"\frac{{{value}}}{{7}}"),
                (f"{value}", rf"{value}\text{{ cm}}"),
                (f"{value}", rf"x = {value}"),
                (f"({value}, 2)", rf"\left({value}, 2\right)"),
            ]
        )
        if i % 2:
            answer = answer.replace(str(value), str(value + 1))
        response = f"{WORKING}<think>{i}</think> so the answer is $\\boxed{{{answer}}}$."
        pairs.append((Sample(f"e-{i}", "speed", "easy", "?", (), gold), response))
    return pairs


def test_easy_boxed_responses_on_one_core():
    pairs = easy(6000)
    maths._decide.cache_clear()
    start = time.perf_counter()
    verdicts = [maths.decide_fast(*pair) for pair in pairs]
    rate = len(pairs) / (time.perf_counter() - start)
    print(f"\n{rate:.0f} easy boxed responses per second, every one different")
    assert [v.outcome is Outcome.CORRECT for v in verdicts] == [i % 2 == 0 for i in range(6000)]
    assert rate > 2000 / 3


def test_groups_repeat_their_answers():
    """Eight responses per problem with 16.5 % distinct (gold, answer) pairs."""
    distinct = easy(1650)
    draw = random.Random(1)
    pairs = [draw.choice(distinct) for _ in range(10_000)]
    maths._decide.cache_clear()
    rubric = Rubric.from_terms([("math", 1.0)])
    start = time.perf_counter()
    rubric.grade(pairs)
    rate = len(pairs) / (time.perf_counter() - start)
    rubric.close()
    print(f"\n{rate:.0f} responses per second with repeats")
    assert rate > 10_000 / 3


def resident_mb():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def test_hanging_answers_among_easy_ones():
    pairs = easy(100 * HANGING)
    alone = Rubric.from_terms([("math", 1.0)], workers=2, deadline=0.5)
    expected = [reward.correct for reward in alone.grade(pairs)]
    alone.close()
    hostile = [
        (
            Sample(f"h-{i}", "speed", "hang", "?", (), r"\frac{1}{3}"),
            rf"\boxed{{{HANGS[i % 7]}+{i}}}",
        )
        for i in range(HANGING)
    ]
    mixed = list(pairs)
    for i, pair in enumerate(hostile):
        mixed.insert(i * len(pairs) // HANGING, pair)
    before = resident_mb()
    rubric = Rubric.from_terms([("math", 1.0)], workers=2, deadline=0.5)
    start = time.perf_counter()
    rewards = rubric.grade(mixed)
    seconds = time.perf_counter() - start
    easy_rewards = [r for (s, _), r in zip(mixed, rewards, strict=True) if s.task == "easy"]
    hard = [r for (s, _), r in zip(mixed, rewards, strict=True) if s.task == "hang"]
    pool = rubric.pool_client.pool
    alive = sum(worker.process.poll() is None for worker in pool._workers)
    grown = resident_mb() - before
    print(f"\n{seconds:.1f} s, {pool.kills} kills, {alive} workers alive, parent +{grown:.0f} MB")
    assert [r.correct for r in easy_rewards] == expected
    assert all(r.valid for r in easy_rewards)
    assert not any(r.correct for r in hard)
    assert alive == 2
    assert grown < 100
    rubric.close()
    assert pool._workers == []
    command = ["ps", "-o", "stat=", "--ppid", str(os.getpid())]
    states = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "Z" not in states
