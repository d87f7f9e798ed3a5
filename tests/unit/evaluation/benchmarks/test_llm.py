"""An endpoint's extractions and verdicts: only what is left is asked; a dead one is named."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.evaluation import score
from sapo_vl.evaluation.benchmarks.llm import Endpoint
from sapo_vl.evaluation.benchmarks.rows import read_response
from sapo_vl.rewards.verifiers.endpoint import ChatSession, NoUsableReplyError


@pytest.fixture
def server():
    """Yield (url, prompts received); every reply names option B or, for a judge, says the same."""
    prompts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompts.append(body["messages"][0]["content"])
            said = "VERDICT: SAME" if "VERDICT" in prompts[-1] else "Extracted answer: (B)"
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            raw = json.dumps(reply | {"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", prompts
    http.shutdown()
    http.server_close()


def row(response: str):
    return read_response(
        {"model": "x", "problem_id": "1", "gold": "blue", "choices": ["red", "blue"],
         "question_type": "multi_choice", "response": response}, "x",
    )  # fmt: skip


def test_only_what_the_rules_leave_is_asked(server):
    url, prompts = server
    rows = [row("blue"), row("I cannot see it, maybe the second."), row("")]
    benchmark = score.named("mathvista")
    found = score.score(benchmark, rows, endpoint=Endpoint(url, "m"))
    assert len(prompts) == 1
    assert "maybe the second" in prompts[0]
    assert [item.correct for item in found][:2] == [True, True]
    assert found[1].extraction.note == "extracted by m"
    assert score.extractor(benchmark, Endpoint(url, "m")) == "LLM m"
    assert score.extractor(benchmark, None) == "rules in place of the LLM"


def test_mathverse_is_judged_by_the_llm_and_the_rules_stand_beside_it(server):
    url, prompts = server
    record = {"model": "x", "problem_id": "1", "gold": "A", "question_type": "multi-choice",
              "question": "Which? A:1 B:2", "response": "the second"}  # fmt: skip
    benchmark, endpoint = score.named("mathverse"), Endpoint(url, "m")
    found = score.score(benchmark, [read_response(record, "x")] * 2, endpoint=endpoint)
    none = score.score(benchmark, [read_response(record | {"gold": None}, "x")], endpoint=endpoint)
    assert [item.correct for item in [*found, *none]] == [True, True, None]
    assert found[0].judgement.rules == {"quick_match": False, "by_rule": False}
    assert found[0].judgement.reason == "judged the same as A"
    assert sum("VERDICT" in prompt for prompt in prompts) == 1  # equal questions are asked once
    assert score.extractor(benchmark, endpoint) == "LLM m, and the verdict too"


def test_a_question_without_a_reply_has_no_verdict_and_its_reason(server, monkeypatch):
    """The third question gets a page; the others are scored."""
    url, _ = server
    request, asked = ChatSession._request, []

    async def odd(self, method, path, body):
        asked.append(body)
        if "the third" in body["messages"][0]["content"]:
            raise NoUsableReplyError("the reply is an HTML page")
        return await request(self, method, path, body)

    monkeypatch.setattr(ChatSession, "_request", odd)
    rows = [row(f"unsure, the {word}") for word in ("first", "second", "third", "fourth")]
    found = score.score(score.named("mathvista"), rows, endpoint=Endpoint(url, "judge"))
    assert [item.correct for item in found] == [True, True, None, True]
    reason = "no extraction by judge: the reply is an HTML page"
    assert found[2].judgement.reason == reason
    assert score.remarks(found) == [f"no verdict on 1 of 4 responses: 1 x {reason}"]
    assert len(asked) == 4


def test_mathverse_keeps_its_own_verdict_where_there_is_nothing_to_judge(server):
    """A gold that no answer can equal, and thinking that never ends, are not sent."""
    url, prompts = server
    record = {"model": "x", "problem_id": "1", "question_type": "multi-choice", "gold": "A"}
    rows = [
        record | {"response": "A", "gold": "E", "choices": ["x", "y"]},
        record | {"response": "<think>A"},
    ]
    benchmark = score.named("mathverse")
    read = [read_response(r, "x", benchmark) for r in rows]
    found = score.score(benchmark, read, endpoint=Endpoint(url, "m"))
    assert [item.correct for item in found] == [None, False]
    assert not any("VERDICT" in prompt for prompt in prompts)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "file:///etc/passwd", "http://", "http://a:x/v1"])
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="--judge"):
        Endpoint(url, "m")
    with pytest.raises(ConfigError, match="password"):
        Endpoint("http://me:secret@host/v1", "m")


def test_an_endpoint_that_does_not_answer_is_an_error():
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", seconds=1, retries=0)
    with pytest.raises(SetupError, match="v1, model m: "):
        score.score(score.named("mathvista"), [row("who knows")], endpoint=endpoint)
