"""A user's function that misbehaves gives no verdict with a reason, and leaves nothing behind."""

import os
import time
from pathlib import Path

import faulty_verifiers
import numpy as np
import pytest

from sapo_vl.rewards.pool import processes
from sapo_vl.rewards.pool.client import PoolClient
from sapo_vl.rewards.pool.worker import WrongResultError, as_verdict
from sapo_vl.schema import Outcome, Sample, Verdict

FILE = faulty_verifiers.__file__
ONE = Sample("t-1", "test", "t", "?", (), "8")
REASONS = {
    "raises": "error: raised KeyError('answer')",
    "returns_none": "error: returned None",
    "returns_nan": "error: returned nan",
    "returns_dict": "error: returned a dict",
    "returns_bytes": "error: returned b'1'",
    "huge_verdict": "returned a Verdict with the score 1e+30",
    "nan_verdict": "returned a Verdict with the score nan",
    "sleeps": "timeout: no answer within",
    "exits": "crash: the worker left with exit code 3",
    "kills_itself": "crash: the worker was ended by SIGKILL",
    "leaves_an_orphan": "crash: the worker left with exit code 1",
    "starts_a_program": "timeout: no answer within",
    "prints_garbage": "crash: the worker",
    "unprintable_error": "error: raised Unprintable",
}


@pytest.fixture(scope="module")
def client():
    made = PoolClient(workers=2, deadline=0.4)
    yield made
    made.close()


def call(client, name, *responses):
    pairs = [(ONE, response) for response in responses or ("r",)]
    return client.call_user(f"{FILE}:{name}", pairs)


def sleepers():
    """Return the ids of living processes that a faulty verifier has left."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if folder.name.isdigit() and command[:2] == [b"sleep", b"600"]:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("name", REASONS)
def test_a_fault_is_no_verdict_with_its_reason(client, name):
    start = time.monotonic()
    (verdict,) = call(client, name)
    assert verdict.outcome is Outcome.NO_VERDICT
    assert REASONS[name] in verdict.reason
    assert time.monotonic() - start < 20  # 0.4 s and 0.8 s, and two new workers


def test_a_function_that_forks_answers_once(client):
    verdicts = call(client, "forks_and_returns", *"abcdef")
    assert [v.outcome for v in verdicts] == [Outcome.CORRECT] * 6


def test_killed_workers_take_their_children_along(client):
    call(client, "starts_a_program")
    client.close()
    ends = time.monotonic() + 5
    while sleepers() and time.monotonic() < ends:
        time.sleep(0.05)
    assert sleepers() == []


def test_a_function_that_always_hangs_is_not_asked_for_every_response():
    client = PoolClient(workers=2, deadline=0.2)
    start = time.monotonic()
    verdicts = call(client, "sleeps", *map(str, range(200)))
    seconds = time.monotonic() - start
    client.close()
    assert {v.outcome for v in verdicts} == {Outcome.NO_VERDICT}
    asked = [v for v in verdicts if v.reason.startswith("timeout")]
    assert processes.MIN_FAILED <= len(asked) <= processes.MIN_FAILED + 2
    assert all(v.reason.startswith("not asked") for v in verdicts if v not in asked)
    assert seconds < 30  # 10 of 0.2 s and their new workers; 200 would take minutes


def test_ten_faults_cost_the_other_responses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTS_FOLDER", str(tmp_path))
    client = PoolClient(workers=2, deadline=0.4)  # new workers, which know the folder
    verdicts = call(client, "cycle", *map(str, range(100, 140)))
    client.close()
    assert [v.outcome for v in verdicts].count(Outcome.CORRECT) == 30
    reasons = [v.reason for v in verdicts if v.outcome is Outcome.NO_VERDICT]
    for function in faulty_verifiers.TEN:
        assert sum(REASONS[function.__name__] in reason for reason in reasons) >= 1, function
    assert len(reasons) == 10


@pytest.mark.parametrize(
    ("result", "score"),
    [
        (True, 1.0),
        (0, 0.0),
        (0.25, 0.25),
        (np.float32(0.5), 0.5),
        (np.bool_(True), 1.0),
        (np.int64(1), 1.0),
        (Verdict(Outcome.CORRECT, np.float32(1), "x"), 1.0),
        (Verdict("wrong", True, "x"), 1.0),
        (Verdict(Outcome.NO_VERDICT, float("nan"), "x"), 0.0),
    ],
)
def test_numbers_of_every_kind_are_scores(result, score):
    verdict = as_verdict(result)
    assert (type(verdict.score), verdict.score) == (float, score)


@pytest.mark.parametrize(
    "result",
    [None, "1", b"1", {}, [1], 1.5, -0.1, float("nan"), float("inf"), 1 + 1j, np.array([1, 2]),
     Verdict(Outcome.CORRECT, 2.0, "x"), Verdict(Outcome.WRONG, float("nan"), "x"),
     Verdict(Outcome.WRONG, None, "x"), Verdict("perhaps", 1.0, "x"),
     Verdict(Outcome.WRONG, "1", "x")],
    ids=repr,
)  # fmt: skip
def test_anything_else_is_named(result):
    with pytest.raises(WrongResultError, match="returned"):
        as_verdict(result)


def test_texts_of_a_verdict_travel_whatever_they_are():
    verdict = as_verdict(Verdict(Outcome.CORRECT, 1.0, b"\xff", extracted=b"\xfe"))
    assert (verdict.reason, verdict.extracted) == (repr(b"\xff"), repr(b"\xfe"))
    assert len(as_verdict(Verdict(Outcome.CORRECT, 1.0, "x" * 10**6)).reason) == 2000


def test_the_ten_of_a_run_are_ten():
    assert len(set(faulty_verifiers.TEN)) == 10
    assert os.path.exists(FILE)
