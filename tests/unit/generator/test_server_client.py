"""Calls to one server: its deadlines, its key, its options and its errors."""

from __future__ import annotations

import asyncio
import pickle
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from stand_in_server import KEY

from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.generator.servers.client import ServerClient, ServerError, check_address
from sapo_vl.generator.servers.command import check_server
from sapo_vl.generator.servers.guard import KeyGuard


def test_servers_that_can_not_be_used(servers, build, monkeypatch):
    with pytest.raises(SetupError, match="no connection: it has ended, or never ran there"):
        build([servers[0], SimpleNamespace(address="http://127.0.0.1:9")])
    servers[1].key = "another"
    with pytest.raises(SetupError, match="does not accept the key") as caught:
        build(servers)
    assert servers[1].address in str(caught.value)
    assert KEY not in str(caught.value)
    monkeypatch.delenv("SAPO_SERVER_KEY")
    with pytest.raises(SetupError, match="SAPO_SERVER_KEY"):
        build(servers)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"logprobs_mode": "raw_logprobs"},
            "=raw_logprobs and this run has processed_logprobs",
        ),
        ({"max_model_len": 256}, r"max_model_len=256 and this run has 512 \(generator.max_model"),
        ({"dtype": "bfloat16"}, r"dtype=bfloat16 and this run has float32 \(model.dtype\)"),
        ({"mm_processor_kwargs": {}}, "data.min_pixels and data.max_pixels"),
        ({"enable_lora": True}, "enable_lora=True and this run has None"),
    ],
)
def test_a_server_with_other_options_is_refused(servers, build, change, told):
    with pytest.raises(ConfigError, match=told):
        build(servers, **change)


def test_options_that_change_speed_alone_may_differ(servers, build):
    build(servers, max_num_seqs=3, kv_cache_memory_bytes=1, tensor_parallel_size=2)
    build(servers, max_model_len=1024)


def test_a_server_that_tells_no_options_is_refused(servers):
    client = ServerClient(servers[0].address, KEY)
    with closing(client), pytest.raises(SetupError, match="tells no options; start it with `sapo"):
        check_server(client, {})


def test_calls_have_deadlines(servers):
    client = ServerClient(servers[0].address, KEY)
    servers[0].trickle = 0.1
    start = time.monotonic()
    with pytest.raises(ServerError, match=rf"server {client.address}: no answer within 0\.3 s"):
        client.get("/weight_info", timeout=0.3)
    assert time.monotonic() - start < 2
    servers[0].trickle = 0
    assert client.get("/weight_info") == {"weight_version": "default"}
    servers[0].sick = True
    assert not client.is_up(timeout=0.2)
    client.close()
    gone = ServerClient("http://127.0.0.1:9", KEY)
    with pytest.raises(ServerError, match="no connection"):
        gone.post("/pause")


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_connection_that_breaks_is_tried_once_more(broken):
    asked = []

    async def serve(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if len(asked) > broken:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n17")
            await writer.drain()
        writer.close()

    async def ask():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = ServerClient(f"http://127.0.0.1:{port}", "key")
            async with client.session() as session:
                return await client.ask(session, "GET", "/health", None, 20.0)

    if broken < 2:
        assert asyncio.run(ask()) == 17
    else:
        with pytest.raises(ServerError, match="closed the connection without an answer"):
            asyncio.run(ask())
    assert len(asked) == min(broken + 1, 2)


def test_errors_travel_between_ranks():
    error = pickle.loads(pickle.dumps(ServerError("http://a:1", "is late")))
    assert (str(error), error.address) == ("server http://a:1: is late", "http://a:1")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:8000", "not of the form"),
        ("ftp://a:8000", "not of the form"),
        ("http://a:8000/v1", "not of the form"),
        ("http://a", "names no port"),
        ("http://a:99999", "range"),
        ("http://me:word@a:8000", "user name or password"),
    ],
)
def test_addresses_that_can_not_be_used(address, told):
    with pytest.raises(ConfigError, match=told) as caught:
        check_address(address)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/health", None, 200),
        ("/update_weights", None, 401),
        ("/collective_rpc", b"Bearer wrong", 401),
        ("/collective_rpc", b"Bearer right", 200),
        ("/v1/models", b"right", 401),
        ("/sapo_vl/options", None, 401),
    ],
)
def test_the_guard_wants_the_key_on_every_path(monkeypatch, path, header, status):
    monkeypatch.setenv("VLLM_API_KEY", "right")
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", header)] if header else []
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(KeyGuard(app)(scope, None, send))
    assert sent[0]["status"] == status


def test_the_guard_tells_the_options(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "right")
    monkeypatch.setenv("SAPO_SERVER_OPTIONS", '{"seed": 3}')
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", b"Bearer right")]
    scope = {"type": "http", "path": "/sapo_vl/options", "headers": headers}
    asyncio.run(KeyGuard(None)(scope, None, send))
    assert [message.get("status") for message in sent] == [200, None]
    assert sent[1]["body"] == b'{"seed": 3}'


def test_the_guard_needs_a_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        KeyGuard(None)
