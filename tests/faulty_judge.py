"""A judge that misbehaves: an HTTP server on loopback with ten named faults and right verdicts.

    with FaultyJudge(lambda number, body: "html" if number % 3 == 0 else "verdict") as judge:
        ... judge.url, judge.requests

The choice of each reply sees the request's number (from 0) and its JSON body. "verdict" says SAME
for two answers that are equal but for case, else DIFFERENT; SAME and DIFFERENT always do.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SAME, DIFFERENT = "They agree.\nVERDICT: SAME", "No.\nVERDICT: DIFFERENT"
HANG_SECONDS = 30.0  # longer than any deadline of a test; a closing server ends the wait


def data_of(body: dict[str, Any]) -> dict[str, str]:
    """Return the JSON object between the fences of a judge's prompt."""
    lines = body["messages"][0]["content"].split("\n")
    return json.loads(next(line for line in lines if line.startswith('{"question"')))


def verdict(body: dict[str, Any]) -> str:
    """Return the reply of a judge that compares the two answers without their case."""
    data = data_of(body)
    return SAME if data["answer 1"].casefold() == data["answer 2"].casefold() else DIFFERENT


def completion(content: Any) -> bytes:
    """Return the body of a chat completion."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.answer(json.dumps({"object": "list", "data": [{"id": "m"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.server.judge.choose_reply(body, dict(self.headers))
        with contextlib.suppress(OSError):  # the client has left, as it should
            if kind in FAULTS:
                FAULTS[kind](self)
            else:
                replies = {"verdict": verdict(body), "same": SAME, "different": DIFFERENT}
                self.answer(completion(replies[kind]))

    def answer(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.head(status, kind, len(body))
        self.wfile.write(body)

    def head(self, status: int, kind: str, length: int | None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def drip(self, chunk: bytes, pause: float) -> None:
        """Write `chunk` again and again until the client leaves or the server closes."""
        self.head(200, "application/json", None)
        while not self.server.judge.closing.wait(pause):
            self.wfile.write(chunk)
            self.wfile.flush()

    def hang(self) -> None:
        self.server.judge.closing.wait(HANG_SECONDS)

    def log_message(self, *_: object) -> None:
        pass


FAULTS: dict[str, Callable[[_Handler], None]] = {
    "html": lambda h: h.answer(b"<html><body>502 proxy</body></html>", kind="text/html"),
    "empty": lambda h: h.answer(b""),
    "null_message": lambda h: h.answer(completion(None)),
    "list_content": lambda h: h.answer(completion([{"type": "text", "text": "VERDICT: SAME"}])),
    "broken_json": lambda h: h.answer(completion(SAME)[:-30]),
    "deep_json": lambda h: h.answer(b"[" * 200_000),
    "closes": lambda h: h.head(200, "application/json", 1000),
    "hangs": lambda h: h.hang(),
    "drips": lambda h: h.drip(b" ", 0.05),
    "endless": lambda h: h.drip(b" " * 65_536, 0.0),
    "number": lambda h: h.answer(b"17"),
    "redirects": lambda h: h.head(307, "text/plain", 0, Location="http://127.0.0.1:9/v1"),
    "error_500": lambda h: h.answer(b"{}", status=500),
    "no_verdict": lambda h: h.answer(completion("I would say yes.")),
}
"""Name of a fault -> what the server does."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    judge: FaultyJudge

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that leaves in the middle


class FaultyJudge:
    """The server; a context manager."""

    def __init__(self, choose: Callable[[int, dict[str, Any]], str]) -> None:
        self.choose = choose
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: Counter[str] = Counter()
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.judge = self
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def choose_reply(self, body: dict[str, Any], headers: dict[str, str]) -> str:
        """Record a request; return the name of its reply."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            kind = self.choose(number, body)
            self.replies[kind] += 1
            return kind

    def __enter__(self) -> FaultyJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
