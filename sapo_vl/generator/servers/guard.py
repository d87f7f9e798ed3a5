"""Lets only requests with the key reach a vLLM server, on every path but /health.

vLLM's own check of its API key covers paths below /v1, /v2, /inference and /cohere. The routes that
pause a server and change its weights lie outside them and would be open to whoever reaches the
port. `vllm serve --middleware sapo_vl.generator.servers.guard.KeyGuard` puts this in front of all.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable from which a server takes its key; it never stands on a command line."""

OPTIONS_VARIABLE = "SAPO_SERVER_OPTIONS"
"""Environment variable with the options, as JSON, that the server was started with."""

OPEN_PATH = "/health"

OPTIONS_PATH = "/sapo_vl/options"
"""Where these options can be read: vLLM itself shows its own form of some of them."""


class KeyGuard:
    """ASGI middleware: a request without the key gets status 401. Tells the server's options."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """Guard `app`. Raises RuntimeError, which ends the server, where no key is set."""
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise RuntimeError(f"the environment variable {KEY_VARIABLE} holds no key")
        self._app = app
        self._expected = f"Bearer {key}".encode()
        self._options = os.environ.get(OPTIONS_VARIABLE, "null").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401."""
        if scope["type"] == "lifespan" or scope.get("path") == OPEN_PATH:
            await self._app(scope, receive, send)
            return
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        accepted = hmac.compare_digest(given, self._expected)
        if accepted and scope.get("path") != OPTIONS_PATH:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            status, body = (200, self._options) if accepted else (401, b'{"error": "Unauthorized"}')
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})
