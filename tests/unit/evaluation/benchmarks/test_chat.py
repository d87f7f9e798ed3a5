"""A chat endpoint that misbehaves: every fault is a reason within the deadline, never a crash."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.evaluation import score
from sapo_vl.evaluation.benchmarks.chat import ChatClient, NoReplyError, content
from sapo_vl.evaluation.benchmarks.llm import MAX_FAILURES, Endpoint
from sapo_vl.evaluation.benchmarks.rows import read_response


def completion(text: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


GOOD = completion("Extracted answer: (B)")
REPLIES = {
    "html": (b"<html>Bad gateway\x1b[2J</html>", "not JSON"),
    "empty": (b"", "empty"),
    "cut": (GOOD[:30], "not JSON"),
    "list": (b"[]", "no chat completion"),
    "number": (b"7", "no chat completion"),
    "null message": (b'{"choices": [{"message": null}]}', "no chat completion"),
    "no choice": (b'{"choices": []}', "no chat completion"),
    "an error": (b'{"error": {"message": "busy"}}', "no chat completion"),
    "null content": (completion(None), "NoneType"),
    "a number as content": (completion(7), "int"),
    "parts as content": (completion([{"type": "text", "text": "B"}]), "list"),
    "deep": (b"[" * 200_000, "not JSON"),
    "latin-1": (b'{"choices": "\xe9"}', "not JSON"),
}


class Faulty(BaseHTTPRequestHandler):
    """Replies as the path's first part says; every request's prompt and key are kept."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers["Authorization"], sent))
        fault = self.path.split("/")[1].replace("%20", " ")
        if fault == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "hang":
            self.server.stopped.wait(5)
            self.close_connection = True
        elif fault in ("drip", "endless"):
            self.slowly(endless=fault == "endless")
        elif fault == "redirect":
            self.reply(307, b"", Location=f"http://127.0.0.1:{self.server.server_port}/good/v1")
        elif fault.isdigit():
            busy = int(fault) and sum(path == self.path for path, _, _ in self.server.asked) < 3
            self.reply(int(fault) if busy else 200, GOOD)
        else:
            self.reply(200, REPLIES[fault][0] if fault in REPLIES else GOOD)

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def slowly(self, *, endless):
        self.send_response(200)
        self.send_header("Content-Length", "999999999")
        self.end_headers()
        with suppress(OSError):
            while not self.server.stopped.wait(0 if endless else 0.02):
                self.wfile.write(b"x" * 65536 if endless else b" ")
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    http.asked, http.stopped = [], threading.Event()
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield http
    http.stopped.set()
    http.shutdown()
    http.server_close()


def client(server, fault, seconds=5.0, retries=0, key=""):
    return ChatClient(
        f"http://127.0.0.1:{server.server_port}/{fault}/v1", "m", key, seconds, retries
    )


@pytest.mark.parametrize("fault", REPLIES)
def test_a_reply_that_is_none_is_named(server, fault):
    with pytest.raises(NoReplyError, match=REPLIES[fault][1]) as error:
        client(server, fault.replace(" ", "%20")).ask("?", 8)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_one_deadline_covers_a_question_with_all_its_attempts(server, fault):
    start = time.monotonic()
    with pytest.raises(NoReplyError, match=r"no reply within 0\.3 s"):
        client(server, fault, seconds=0.3, retries=5).ask("?", 8)
    assert time.monotonic() - start < 2


def test_an_endless_reply_ends_at_the_limit(server):
    with pytest.raises(NoReplyError, match="longer than 1048576 bytes"):
        client(server, "endless").ask("?", 8)


def test_a_connection_that_is_closed_or_refused(server):
    with pytest.raises(NoReplyError, match=r"RemoteDisconnected|ConnectionReset|BadStatusLine"):
        client(server, "close").ask("?", 8)
    with pytest.raises(NoReplyError, match="ConnectionRefused"):
        ChatClient("http://127.0.0.1:9/v1", "m", "", 1, 0).ask("?", 8)


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server, monkeypatch):
    monkeypatch.setattr("sapo_vl.evaluation.benchmarks.chat.MAX_BACKOFF", 0.001)
    assert client(server, "503", retries=2).ask("?", 8) == "Extracted answer: (B)"
    with pytest.raises(NoReplyError, match="status 401"):
        client(server, "401", retries=2).ask("?", 8)
    assert sum(path.startswith("/401/") for path, _, _ in server.asked) == 1


def test_a_redirect_does_not_carry_the_key_elsewhere(server):
    server.asked.clear()
    with pytest.raises(NoReplyError, match="status 307"):
        client(server, "redirect", key="secret").ask("?", 8)
    assert [(path, key) for path, key, _ in server.asked] == [
        ("/redirect/v1/chat/completions", "Bearer secret")
    ]


@pytest.mark.parametrize("url", ["127.0.0.1:80", "file:///etc/passwd", "http://", "http://a:x/v1"])
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="--judge"):
        Endpoint(url, "m")
    with pytest.raises(ConfigError, match="password"):
        Endpoint("http://me:secret@host/v1", "m")


def test_a_chat_completion():
    assert content(GOOD) == "Extracted answer: (B)"


def rows(count):
    return [
        read_response({"model": "x", "problem_id": str(i), "gold": "blue", "choices": ["a", "blue"],
                       "question_type": "multi_choice", "response": "unsure"}, "x")
        for i in range(count)
    ]  # fmt: skip


def test_a_question_without_a_reply_has_no_verdict_and_its_reason(server, monkeypatch):
    """The third question gets a page; the others are scored."""
    replies = iter([GOOD, GOOD, REPLIES["html"][0], GOOD])
    monkeypatch.setattr(ChatClient, "_post", lambda *_: next(replies))
    endpoint = Endpoint("http://host/v1", "judge", concurrency=1, retries=0)
    found = score.score(score.named("mathvista"), rows(4), endpoint=endpoint)
    assert [item.correct for item in found] == [True, True, None, True]
    assert "no extraction by judge: the reply is not JSON" in found[2].judgement.reason
    assert score.remarks(found)[0].startswith("no verdict on 1 of 4 responses: 1 x no extraction")


def test_a_dead_endpoint_is_not_asked_for_every_row(monkeypatch):
    asked = []

    def dead(self, data, end):
        asked.append(data)
        raise NoReplyError("status 500")

    monkeypatch.setattr(ChatClient, "_post", dead)
    endpoint = Endpoint("http://host/v1", "judge", concurrency=4, retries=0)
    with pytest.raises(SetupError, match="model judge: no extraction by judge: status 500"):
        score.score(score.named("mathvista"), rows(300), endpoint=endpoint)
    assert MAX_FAILURES <= len(asked) < MAX_FAILURES + 4


@pytest.mark.parametrize(
    ("url", "variable", "key"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY", "Bearer o"),
        ("http://127.0.0.1:8000/v1", "OPENAI_API_KEY", None),
        ("https://api.openai.com.evil.org/v1", "OPENAI_API_KEY", None),
        ("http://127.0.0.1:8000/v1", "JUDGE_API_KEY", "Bearer o"),
        ("https://api.openai.com/v1", "JUDGE_API_KEY", None),
    ],
)
def test_the_key_goes_where_it_belongs(monkeypatch, url, variable, key):
    for name in ("OPENAI_API_KEY", "JUDGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "o")
    sent = []
    monkeypatch.setattr(ChatClient, "_post", lambda self, *_: sent.append(self.key) or GOOD)
    score.score(score.named("mathvista"), rows(1), endpoint=Endpoint(url, "m"))
    assert sent == [(key or "").removeprefix("Bearer ")]
