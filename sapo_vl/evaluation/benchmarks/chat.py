"""A bounded client of an OpenAI-compatible chat endpoint: whatever it replies, `ask` ends.

    client = ChatClient("http://127.0.0.1:8000/v1", "Qwen/Qwen3-4B", key="", seconds=60, retries=4)
    text = client.ask("Which letter ..", max_tokens=128)        # or NoReplyError with the reason

One deadline covers a question with all its attempts, however slowly the bytes come; a reply has at
most `MAX_REPLY_BYTES`. Redirects are not followed, so that the key reaches the configured address
only. Left out: streaming, and proxies of the environment.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sapo_vl.errors import ConfigError, printable

MAX_REPLY_BYTES = 2**20
CHUNK_BYTES = 2**14
MAX_BACKOFF = 20.0  # seconds
SHOWN = 60  # characters of a reply in a reason


class NoReplyError(Exception):
    """The endpoint gave no usable reply; the message is the reason, in one line."""


class RefusedError(NoReplyError):
    """It refused the request, so that asking again is of no use."""


@dataclass(frozen=True, slots=True)
class ChatClient:
    """Address and limits; safe to use from several threads."""

    url: str  # base URL, ends in /v1
    model: str
    key: str  # sent as a bearer token; empty: none
    seconds: float  # deadline of a question, over all attempts
    retries: int  # after the first attempt

    def __post_init__(self) -> None:
        check_url(self.url)

    def ask(self, prompt: str, max_tokens: int) -> str:
        """Return the text of the reply at temperature 0. Raises NoReplyError with the reason."""
        end = time.monotonic() + self.seconds
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": max_tokens,
        }
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                return content(self._post(data, end))
            except RefusedError:
                raise
            except NoReplyError:
                pause = min(MAX_BACKOFF, 0.5 * 2**attempt) * random.uniform(0.5, 1.5)
                if attempt == self.retries or time.monotonic() + pause >= end:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _post(self, data: bytes, end: float) -> bytes:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=max(end - time.monotonic(), 0.001))
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.connect()
            with _closed_at(end, connection.sock):
                connection.request(
                    "POST", f"{parts.path.rstrip('/')}/chat/completions", data, headers
                )
                reply = connection.getresponse()
                raw = _read(reply)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= end:
                raise NoReplyError(f"no reply within {self.seconds:g} s") from error
            raise NoReplyError(f"{type(error).__name__}: {printable(error)[:SHOWN]}") from error
        finally:
            connection.close()
        if time.monotonic() >= end:
            raise NoReplyError(f"no reply within {self.seconds:g} s")
        if reply.status != 200:
            final = reply.status < 500 and reply.status not in (408, 409, 425, 429)
            raise (RefusedError if final else NoReplyError)(f"status {reply.status}")
        return raw


def check_url(url: str, key: str = "--judge") -> None:
    """Raise ConfigError unless `url` is the address of an HTTP server, without a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{key} {url!r} is not an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ConfigError(f"{key}: leave user and password out of the address; see docs")


@contextmanager
def _closed_at(end: float, sock: socket.socket) -> Iterator[None]:
    """Shut the connection down at `end`: a read timeout alone never ends a drip of bytes."""

    def shut() -> None:
        with suppress(OSError):  # it was closed in the meantime
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(end - time.monotonic(), 0), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read(reply: http.client.HTTPResponse) -> bytes:
    data = bytearray()
    while chunk := reply.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_REPLY_BYTES:
            raise NoReplyError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(data)


def content(raw: bytes) -> str:
    """Return the text of a chat completion. Raises NoReplyError naming what it is instead."""
    if not raw.strip():
        raise NoReplyError("the reply is empty")
    try:
        reply: Any = json.loads(raw)
    except (ValueError, RecursionError):
        shown = printable(raw[:SHOWN].decode(errors="replace"))
        raise NoReplyError(f"the reply is not JSON: {shown!r}") from None
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        shown = printable(json.dumps(reply)[:SHOWN])
        raise NoReplyError(f"the reply is no chat completion: {shown}") from None
    if not isinstance(text, str):
        raise NoReplyError(f"the reply's content is {type(text).__name__}, not text")
    return text
