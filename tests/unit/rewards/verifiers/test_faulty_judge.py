"""A judge that misbehaves gives no verdict with a reason, in bounded time, and is asked no more."""

import time

import pytest
from faulty_judge import FAULTS, FaultyJudge

pytest.importorskip("httpx")
from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.rewards.verifiers import endpoint as endpoints
from sapo_vl.rewards.verifiers.endpoint import NOT_ASKED, ChatEndpoint
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig
from sapo_vl.schema import Outcome, Sample

ONE = Sample("t-1", "test", "t", "What colour?", (), "dark red", answer_type="text")
REASONS = {
    "html": "HTML page",
    "empty": "empty",
    "null_message": "no message",
    "list_content": "no text",
    "broken_json": "no JSON",
    "deep_json": "too deep",
    "closes": "closed or broken",
    "hangs": "within 0.6 s",
    "drips": "within 0.6 s",
    "endless": "longer than 1 MiB",
    "number": "no message",
    "redirects": "redirects",
    "error_500": "status 500",
    "no_verdict": "no verdict",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoints, "FIRST_BACKOFF", 0.01)


def ask(server, *answers, **settings):
    settings = {"deadline": 0.6, "retries": 1} | settings
    judge = Judge(JudgeConfig(server.url, "m", **settings))
    return judge.verdicts([(ONE, answer) for answer in answers])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_no_verdict_with_its_reason(fault):
    with FaultyJudge(lambda number, body: fault) as server:
        start = time.monotonic()
        (verdict,) = ask(server, "crimson")
        assert time.monotonic() - start < 5  # a deadline of 0.6 s; the rest is a busy machine
    assert verdict.outcome is Outcome.NO_VERDICT
    assert verdict.reason.startswith("judge: ")
    assert REASONS[fault] in verdict.reason


@pytest.mark.parametrize("fault", ["html", "empty", "broken_json", "closes", "error_500"])
def test_a_fault_that_passes_is_asked_again(fault):
    with FaultyJudge(lambda number, body: fault if number == 0 else "same") as server:
        (verdict,) = ask(server, "crimson", deadline=20.0)
    assert verdict.outcome is Outcome.CORRECT
    assert server.replies == {fault: 1, "same": 2}


def test_the_deadline_is_of_the_call_with_its_retries(monkeypatch):
    monkeypatch.setattr(endpoints, "FIRST_BACKOFF", 30.0)
    with FaultyJudge(lambda number, body: "error_500") as server:
        start = time.monotonic()
        (verdict,) = ask(server, "crimson", deadline=0.3, retries=100)
    assert "status 500" in verdict.reason  # what the last attempt met
    assert time.monotonic() - start < 5


def test_a_judge_that_only_fails_is_asked_no_more():
    with FaultyJudge(lambda number, body: "null_message") as server:
        verdicts = ask(server, *(f"shade {i}" for i in range(60)), concurrency=2)
    assert [v.outcome for v in verdicts] == [Outcome.NO_VERDICT] * 60
    assert endpoints.MIN_FAILED <= len(server.requests) <= endpoints.MIN_FAILED + 2
    assert sum(NOT_ASKED in v.reason for v in verdicts) == 60 - len(server.requests)


def test_faults_among_verdicts_cost_only_their_own_responses():
    def choose(number, body):
        return "null_message" if "shade 3" in str(body) else "verdict"

    with FaultyJudge(choose) as server:
        verdicts = ask(server, *(f"shade {i}" for i in range(9)), "Dark Red", deadline=20.0)
    outcomes = [v.outcome for v in verdicts]
    assert outcomes == [
        *[Outcome.WRONG] * 3, Outcome.NO_VERDICT, *[Outcome.WRONG] * 5, Outcome.CORRECT
    ]  # fmt: skip


def test_a_key_goes_only_where_it_was_meant_to_go(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    with FaultyJudge(lambda number, body: "same") as server:
        ask(server, "crimson", deadline=20.0)
        monkeypatch.setenv("JUDGE_API_KEY", "sk-judge")
        ask(server, "crimson", deadline=20.0)
        monkeypatch.setenv("JUDGE_API_KEY", "sk-\n-judge")
        with pytest.raises(SetupError, match="JUDGE_API_KEY"):
            ask(server, "crimson")
    sent = [headers.get("Authorization") for headers in server.headers]
    assert sent == [None, None, "Bearer sk-judge", "Bearer sk-judge"]
    monkeypatch.delenv("JUDGE_API_KEY")
    urls = {
        "https://api.openai.com/v1": "sk-openai",
        "http://api.openai.com/v1": "",
        "https://api.openai.com.example.org/v1": "",
        "https://example.org/api.openai.com/v1": "",
    }
    assert {url: ChatEndpoint(url, "m").api_key() for url in urls} == urls


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000/v1", "file:///etc/passwd", "http://", "http://u:p@h/v1", "http://h:x/"]
)
def test_an_address_that_cannot_be_used_is_named(url):
    with pytest.raises(ConfigError, match=r"judge\.url") as error:
        Judge(JudgeConfig(url, "m"))
    assert "u:p" not in str(error.value)
