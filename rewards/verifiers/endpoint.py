"""A client of one OpenAI-compatible chat endpoint that may misbehave (a vLLM server is one).

    endpoint = ChatEndpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen3-4B")
    texts = endpoint.run(lambda session: session.ask_all(["Say yes."], max_tokens=8))

A call ends within `deadline` seconds in all, retries and waits included, and reads at most
`MAX_REPLY_BYTES`. Whatever else comes back (an HTML page, an empty or broken body, a message that
is null or a list, a closed connection, a redirect) is a NoUsableReplyError with a short reason,
never a traceback. What may pass is retried: status 429 and 5xx, a failed connection, an unreadable
body. When most calls of a session fail, the rest is not made (`MIN_FAILED`).

The API key is that of the environment variable JUDGE_API_KEY. Without it, OPENAI_API_KEY is sent to
https://api.openai.com and nothing to any other address. Redirects are not followed.

Left out: streaming and tools. Not the openai package: it has a timeout per read, none for
the call, and no limit on a reply's size.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from sapo_vl.errors import ConfigError, SetupError, printable

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

Content = str | list[dict[str, Any]]
"""A message's text, or its parts: texts and pictures, as OpenAI's API has them."""

MAX_REPLY_BYTES = 1 << 20
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 20.0  # seconds, doubled from attempt to attempt
MIN_FAILED = 8  # a session with this many failed calls, and more failed than answered, asks no more
NOT_ASKED = "not asked, as most calls before it failed"
KEY_VARIABLE = "JUDGE_API_KEY"
_OPENAI = "api.openai.com"


class NoUsableReplyError(Exception):
    """The endpoint gave no usable reply. The text is a short reason without variable parts."""

    def __init__(self, reason: str, retry: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry  # whether asking again may help


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Address and limits of a server."""

    url: str  # base URL that ends in /v1
    model: str  # served model name
    concurrency: int = 16  # calls in flight
    per_minute: float | None = None  # rate limit; None: no limit
    deadline: float = 60.0  # seconds of one call, with its retries
    retries: int = 4

    def check_url(self, key: str) -> None:
        """Raise ConfigError, naming `key`, for an address that can't be used."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{key}={printable(self.url)}: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"{key}={printable(self.url)}: is no http:// or https:// address")
        if parts.username or parts.password:
            raise ConfigError(
                f"{key}: holds a user name or password, which would be stored with the run; put an "
                f"API key into the environment variable {KEY_VARIABLE}"
            )

    def api_key(self) -> str:
        """Return the key for this address, empty for none. Raises SetupError for a bad one."""
        parts = urlsplit(self.url)
        is_openai = parts.scheme == "https" and parts.hostname == _OPENAI
        for variable in (KEY_VARIABLE, "OPENAI_API_KEY") if is_openai else (KEY_VARIABLE,):
            if value := os.environ.get(variable, "").strip():
                if value.isascii() and value.isprintable():
                    return value
                raise SetupError(f"the environment variable {variable} holds no API key")
        return ""

    def run(self, work: Callable[[ChatSession], Awaitable[T]]) -> T:
        """Return the result of `work`, run in an event loop of its own thread."""
        results: list[T] = []
        errors: list[BaseException] = []

        async def main() -> None:
            async with self._client() as client:
                results.append(await work(ChatSession(self, client)))

        def target() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:  # handed to the caller's thread
                errors.append(error)

        thread = threading.Thread(target=target, daemon=True)
        thread.start()  # a thread, as the caller may run an event loop already
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def served_models(self) -> list[str]:
        """Return the names of the served models. Raises SetupError when the server has no list."""
        try:
            listed = self.run(lambda session: session.get("models"))
        except NoUsableReplyError as error:
            raise SetupError(f"{self.url}: {error.reason}") from error
        data = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(data, list):
            raise SetupError(f"{self.url}: its reply to /models is no list of models")
        names = [entry.get("id") for entry in data if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str)]

    def _client(self) -> httpx.AsyncClient:
        import httpx

        key = self.api_key()
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=self.deadline,
            limits=httpx.Limits(max_connections=self.concurrency),
            follow_redirects=False,
            trust_env=not _is_loopback(urlsplit(self.url).hostname or ""),
        )


class ChatSession:
    """The calls of one batch to an endpoint. `calls` counts requests, retries included."""

    def __init__(self, endpoint: ChatEndpoint, client: httpx.AsyncClient) -> None:
        self.endpoint = endpoint
        self.calls = 0
        self._client = client
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._interval = 60.0 / endpoint.per_minute if endpoint.per_minute else 0.0
        self._next_slot = 0.0
        self._failed = 0
        self._answered = 0

    async def ask_all(
        self, prompts: Sequence[str], max_tokens: int
    ) -> list[str | NoUsableReplyError]:
        """Return the reply to each prompt, or why there is none."""
        return await asyncio.gather(*(self._ask_or_error(prompt, max_tokens) for prompt in prompts))

    async def _ask_or_error(self, prompt: str, max_tokens: int) -> str | NoUsableReplyError:
        try:
            return await self.ask(prompt, max_tokens)
        except NoUsableReplyError as error:
            return error

    async def ask(self, prompt: Content, max_tokens: int) -> str:
        """Return the reply to one prompt, at temperature 0. Raises NoUsableReplyError."""
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": max_tokens,
        }
        async with self._slots:
            if self._failed >= MIN_FAILED and self._failed > self._answered:
                raise NoUsableReplyError(NOT_ASKED)
            try:
                text = _message(await self._call("POST", "chat/completions", body))
            except NoUsableReplyError:
                self._failed += 1
                raise
        self._answered += 1
        return text

    async def get(self, path: str) -> Any:
        """Return the JSON of a GET. Raises NoUsableReplyError."""
        return await self._call("GET", path, None)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        await self._wait_for_slot()
        attempt = 0
        last: NoUsableReplyError | None = None
        try:
            async with asyncio.timeout(self.endpoint.deadline):
                while True:
                    try:
                        return await self._request(method, path, body)
                    except NoUsableReplyError as error:
                        if not error.retry or attempt >= self.endpoint.retries:
                            raise
                        last = error
                    wait = min(MAX_BACKOFF, FIRST_BACKOFF * 2**attempt)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                    attempt += 1
        except TimeoutError:
            late = NoUsableReplyError(f"no reply within {self.endpoint.deadline:g} s")
            raise (last or late) from None

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """Make one request. Raises NoUsableReplyError."""
        import httpx

        self.calls += 1
        address = f"{self.endpoint.url.rstrip('/')}/{path}"
        try:
            async with self._client.stream(method, address, json=body) as response:
                if response.status_code != 200:
                    raise _status_error(response.status_code)
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise NoUsableReplyError("the reply is compressed, which was not asked for")
                raw = bytearray()
                async for chunk in response.aiter_raw():
                    raw += chunk
                    if len(raw) > MAX_REPLY_BYTES:
                        raise NoUsableReplyError(
                            f"the reply is longer than {MAX_REPLY_BYTES >> 20} MiB"
                        )
        except httpx.ConnectError as error:
            raise NoUsableReplyError("no connection", retry=True) from error
        except httpx.TimeoutException as error:
            raise NoUsableReplyError(f"no reply within {self.endpoint.deadline:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoUsableReplyError("the connection was closed or broken", retry=True) from error
        return _json(bytes(raw), response.headers.get("content-type", ""))

    async def _wait_for_slot(self) -> None:
        """Space requests evenly to at most `per_minute`."""
        now = time.monotonic()
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._interval
        if slot > now:
            await asyncio.sleep(slot - now)


def _status_error(status: int) -> NoUsableReplyError:
    if 300 <= status < 400:
        return NoUsableReplyError(f"status {status}: it redirects, which is not followed")
    return NoUsableReplyError(f"status {status}", retry=status == 429 or status >= 500)


def _json(raw: bytes, content_type: str) -> Any:
    if not raw.strip():
        raise NoUsableReplyError("the reply is empty", retry=True)
    if raw.lstrip().startswith(b"<") or "html" in content_type:
        raise NoUsableReplyError("the reply is an HTML page", retry=True)
    try:
        return json.loads(raw)
    except RecursionError:
        raise NoUsableReplyError("the reply's JSON is nested too deep") from None
    except ValueError:
        raise NoUsableReplyError("the reply is no JSON", retry=True) from None


def _message(reply: Any) -> str:
    """Return the text of the first choice. Raises NoUsableReplyError."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if content is None:
        raise NoUsableReplyError("the reply has no message")
    if not isinstance(content, str):
        raise NoUsableReplyError("the reply's message is no text")
    return content


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
