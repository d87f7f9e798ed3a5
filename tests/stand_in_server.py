"""A stand-in for a vLLM server: its token route and health, and the faults that a test asks for.

    python tests/stand_in_server.py --host 127.0.0.1 --port 8123      # with VLLM_API_KEY

A response's tokens follow from prompt and seed, so that any two stand-ins answer alike.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "stand-in-key"


class StandInServer:
    """A server in threads of this process."""

    def __init__(self, port: int = 0, key: str = KEY) -> None:
        self.key = key
        self.weight_version = "default"
        self.options: Any = None  # that it says it was started with
        self.asked: list[list[int]] = []  # prompt ids of each request for tokens
        self.answered = 0
        self.die_after: int | None = None  # answers, then every connection is cut
        self.hang = False  # no request for tokens is answered
        self.sick = False  # nor is one for health
        self.status = 200
        self.body: bytes | None = None  # in place of an answer
        self.trickle = 0.0  # seconds between two bytes of it
        self.lose_pictures = False
        self.choices: dict[str, Any] = {}  # fields of each choice that are replaced
        stand_in = self

        class Handler(_Handler):
            server_state = stand_in

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients break off, and tests know why
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def is_dead(self) -> bool:
        return self.die_after is not None and self.answered >= self.die_after

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of vLLM's route; each picture becomes four tokens."""
        params = body["sampling_params"]
        expanded: list[int] = []
        places = []
        parts = body.get("content_parts") or []
        for token in body["token_ids"]:
            if token == IMAGE and not self.lose_pictures:
                places.append({"offset": len(expanded), "length": 4})
                expanded += [IMAGE] * 4
            else:
                expanded.append(token)
        assert len(places) == len(parts) or self.lose_pictures
        return {
            "prompt_token_ids": expanded,
            "mm_placeholders": {"image": places} if places else None,
            "choices": [
                self._choice(i, tokens(body["token_ids"], params["seed"], i))
                for i in reversed(range(params["n"]))
            ],
        }

    def _choice(self, index: int, ids: list[int]) -> dict[str, Any]:
        content = [{"token_id": token, "logprob": -token / 7} for token in ids]
        span = {"version": self.weight_version, "start": 0, "end": len(ids)}
        return {
            "index": index,
            "token_ids": ids,
            "finish_reason": "stop",
            "logprobs": {"content": content},
            "weight_versions": [span],
        } | self.choices

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


IMAGE = 6


def tokens(prompt: list[int], seed: int, index: int) -> list[int]:
    """Return the tokens that every stand-in gives: 1 to 4 of them."""
    first = 10 + (sum(prompt) + 31 * seed + 7 * index) % 200
    return [first + i for i in range(1 + first % 4)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: StandInServer

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._serve(json.loads(self.rfile.read(length) or b"null"))

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self, body: Any) -> None:
        state = self.server_state
        if state.is_dead:
            self.close_connection = True
            self.connection.close()
            return
        if self.path == "/health":
            while state.sick:
                time.sleep(0.05)
            self._reply(200, b"")
            return
        if self.headers.get("Authorization") != f"Bearer {state.key}":
            self._reply(401, b'{"error": "Unauthorized"}')
            return
        if self.path == "/weight_info":
            self._reply(200, json.dumps({"weight_version": state.weight_version}).encode())
            return
        if self.path == "/sapo_vl/options":
            self._reply(200, json.dumps(state.options).encode())
            return
        state.asked.append(body["token_ids"])
        while state.hang:
            time.sleep(0.05)
        answer = state.body if state.body is not None else json.dumps(state.answer(body)).encode()
        state.answered += 1
        self._reply(state.status, answer)

    def _reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not self.server_state.trickle:
            self.wfile.write(content)
            return
        for byte in content:
            self.wfile.write(bytes([byte]))
            time.sleep(self.server_state.trickle)


if __name__ == "__main__":
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    StandInServer(int(arguments["--port"]), os.environ["VLLM_API_KEY"]).thread.join()
