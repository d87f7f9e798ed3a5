"""HTTP calls to one vLLM server, each with a deadline and with errors that name its address.

    client = ServerClient("http://127.0.0.1:8000", key)
    client.get("/weight_info")                          # {"weight_version": "default"}
    client.post("/pause?mode=keep", timeout=30)
    answer = await client.generate(session, body, seconds)

The key travels in the Authorization header and is in no message. Redirects are not followed, and a
proxy that the environment names is not asked for an address of this machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json as json_format
import ssl
import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from sapo_vl.errors import ConfigError, RunError, SetupError, printable

CONTROL_SECONDS = 60.0
"""Default deadline of a call that samples nothing."""

CONNECT_SECONDS = 10.0

SAID = 300
"""Characters of a server's own error in a message."""


class ServerError(RunError):
    """A server is dead, late or confused; another server may do better."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(f"server {address}: {problem}")
        self.address = address
        self.problem = problem

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str]]:
        """Pickle as it was made: errors travel between ranks."""
        return type(self), (self.address, self.problem)


class RefusedError(ServerError):
    """A server refuses a request, as every other would."""


class ServerClient:
    """One server. Its methods may be called from several threads at once."""

    def __init__(self, address: str, key: str) -> None:
        """`address` as http://host:port. Raises ConfigError for one that can't be used."""
        self.address = address.rstrip("/")
        check_address(self.address)
        self._headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
        self._client = httpx.Client(
            base_url=self.address,
            headers=self._headers,
            follow_redirects=False,
            trust_env=not self.is_loopback,
            verify=_tls(),
        )

    @property
    def is_loopback(self) -> bool:
        """Whether the address is one of this machine's own interface: memory can be shared."""
        return _is_loopback(urlsplit(self.address).hostname or "")

    def get(self, path: str, timeout: float = CONTROL_SECONDS) -> Any:
        """Return the JSON of a GET. Raises ServerError, SetupError for a key that is refused."""
        return self._call("GET", path, None, timeout)

    def post(self, path: str, json: Any = None, timeout: float = CONTROL_SECONDS) -> Any:
        """Return the JSON of a POST, None for an empty body. Raises as `get` does."""
        return self._call("POST", path, json, timeout)

    def tell(self, path: str, json: Any = None, timeout: float = CONTROL_SECONDS) -> None:
        """Make a POST whose answer is plain text; raise as `get` does."""
        self._call("POST", path, json, timeout, read=False)

    def is_up(self, timeout: float = CONNECT_SECONDS) -> bool:
        """Return whether the server says that it is well."""
        try:
            self.get("/health", timeout)
        except ServerError:
            return False
        return True

    def session(self) -> httpx.AsyncClient:
        """Return a client for the calls of one event loop.

        A connection ends with its request: the pool goes through all of them, idle ones too, each
        time that one is wanted or given back.
        """
        return httpx.AsyncClient(
            base_url=self.address,
            headers=self._headers,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=not self.is_loopback,
            verify=_tls(),
        )

    async def generate(
        self, session: httpx.AsyncClient, body: dict[str, Any], seconds: float
    ) -> Any:
        """Return the answer to a request for tokens. Raises ServerError, or RefusedError."""
        return await self.ask(session, "POST", "/inference/v1/generate", body, seconds)

    async def ask(
        self, session: httpx.AsyncClient, method: str, path: str, body: Any, seconds: float
    ) -> Any:
        """Return the JSON of one call, which changes nothing there. Raises as `post` does.

        A connection that breaks is tried once more: a server under load may reset one. One
        that has ended refuses the second.
        """
        try:
            async with asyncio.timeout(seconds):
                try:
                    response = await session.request(method, path, json=body)
                except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                    if isinstance(error, httpx.ConnectError):
                        raise
                    response = await session.request(method, path, json=body)
        except TimeoutError:
            raise self._late(seconds) from None
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        return self._answer(response.status_code, response.content)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _call(self, method: str, path: str, body: Any, seconds: float, *, read: bool = True) -> Any:
        end = time.monotonic() + seconds
        limits = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        content = bytearray()
        try:
            with self._client.stream(method, path, json=body, timeout=limits) as response:
                for chunk in response.iter_raw():
                    content += chunk
                    if time.monotonic() > end:  # a reply that trickles
                        raise self._late(seconds)
        except httpx.TimeoutException as error:
            raise self._late(seconds) from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        wanted = read or response.status_code != 200
        return self._answer(response.status_code, bytes(content) if wanted else b"")

    def _answer(self, status: int, content: bytes) -> Any:
        if status == 401:
            raise SetupError(f"server {self.address}: it does not accept the key")
        if status != 200:
            said = printable(_error_text(content)[:SAID])
            refused = 400 <= status < 500 and status != 429
            kind = RefusedError if refused else ServerError
            raise kind(self.address, f"status {status}: {said}" if said else f"status {status}")
        if not content.strip():
            return None
        try:
            return json_format.loads(content)
        except ValueError:
            raise ServerError(self.address, "its reply is no JSON: is it a vLLM server?") from None

    def _late(self, seconds: float) -> ServerError:
        return ServerError(self.address, f"no answer within {seconds:g} s")

    def _broken(self, error: httpx.HTTPError) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerError(self.address, "no connection: it has ended, or never ran there")
        return ServerError(self.address, "it closed the connection without an answer")


def check_address(address: str, key: str = "generator.servers") -> None:
    """Raise ConfigError, naming `key`, for an address that is not http://host:port."""
    shown = printable(address)
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{key}: {shown}: {error}") from error
    if parts.username or parts.password:
        raise ConfigError(
            f"{key}: an address holds a user name or password, which would be stored with the run; "
            "put the servers' key into the environment variable SAPO_SERVER_KEY"
        )
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise ConfigError(f"{key}: {shown} is not of the form http://host:port")
    if port is None and parts.scheme == "http":
        raise ConfigError(f"{key}: {shown} names no port; vllm serve has 8000 by default")


@cache
def _tls() -> ssl.SSLContext:
    """Return the context of all sessions: making one takes 50 ms, which a batch would wait for."""
    return httpx.create_ssl_context()


def _error_text(content: bytes) -> str:
    """Return the message in vLLM's error, or the body itself."""
    text = content.decode(errors="replace")
    try:
        told = json_format.loads(text)
        error = told.get("error", told.get("detail", text))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return text.strip()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
