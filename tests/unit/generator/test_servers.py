"""Rollouts from servers, with stand-ins for vLLM: who gets what, and what a fault does."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import bare_prompt, tiny_config
from PIL import Image
from stand_in_server import IMAGE, KEY, StandInServer, tokens

from sapo_vl.errors import ConfigError, DataError, RunError, SetupError
from sapo_vl.generator.base import SamplingParams, SamplingRequest
from sapo_vl.generator.servers import batch, wire
from sapo_vl.generator.servers.client import (
    RefusedError,
    ServerClient,
    ServerError,
    check_address,
)
from sapo_vl.generator.servers.generator import ServerGenerator, ServersLostError
from sapo_vl.generator.servers.guard import KeyGuard
from sapo_vl.generator.servers.spread import spread
from sapo_vl.generator.servers.transfer import TransferError

PARAMS = SamplingParams(n=2, temperature=1.0, max_new_tokens=8)


class Sender:
    """Brings a version to stand-ins."""

    def __init__(self, servers) -> None:
        self.servers = {server.address: server for server in servers}
        self.failures: dict[str, Exception] = {}
        self.sent: list[list[str]] = []
        self.released: list[str] = []

    def label(self, version):
        return f"run.{version}"

    def send(self, clients, weights, version, *, in_flight=False):
        list(weights)
        self.sent.append([client.address for client in clients])
        for client in clients:
            if client.address not in self.failures:
                self.servers[client.address].weight_version = self.label(version)
        if self.failures:
            raise TransferError(version, self.failures)

    def release(self, clients):
        self.released += [client.address for client in clients]

    def close(self):
        pass


@pytest.fixture
def servers():
    found = [StandInServer() for _ in range(2)]
    yield found
    for server in found:
        server.hang = server.sick = False
        server.close()


@pytest.fixture
def build(tiny_folder, assets, monkeypatch):
    """Return a function that makes a generator of stand-ins."""
    monkeypatch.setenv("SAPO_SERVER_KEY", KEY)
    made = []

    def make(servers, seconds: float = 20.0):
        config = tiny_config(
            tiny_folder,
            "generator.backend=server",
            f"generator.servers=[{','.join(server.address for server in servers)}]",
            f"generator.server_seconds={seconds}",
        )
        made.append(ServerGenerator(config, assets, seed=0, sender=Sender(servers)))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def request(length: int, seed: int = 1, name: str = "one") -> SamplingRequest:
    """Return a request for `length` tokens of prompt, all of them 9."""
    prompt = bare_prompt(length, name=name)
    return SamplingRequest(
        replace(prompt, token_ids=[9] * length, expanded_ids=[9] * length), PARAMS, seed
    )


def expected(requests) -> list[list[list[int]]]:
    return [[tokens(r.prompt.token_ids, r.seed, i) for i in range(r.params.n)] for r in requests]


def ids(groups) -> list[list[list[int]]]:
    return [[rollout.token_ids for rollout in group] for group in groups]


def test_the_longest_prompt_goes_to_the_least_loaded_server():
    assert spread([5, 3, 4], 2) == [[0], [2, 1]]
    assert spread([7, 7, 6, 6, 5], 2) == [[0, 2, 4], [1, 3]]  # 18 tokens; 6 + 6 + 5 = 17 exists
    assert spread([2, 2, 2, 2], 3) == [[0, 3], [1], [2]]
    assert spread([1], 3) == [[0], [], []]
    assert spread([], 2) == [[], []]


def test_responses_come_in_order_from_both_servers(servers, build):
    requests = [request(length, seed=length) for length in (3, 9, 4, 8)]
    groups = build(servers).generate(requests)
    assert ids(groups) == expected(requests)
    first = groups[1][0]
    assert first.prompt is requests[1].prompt
    assert first.generator_logprobs.dtype == np.float32
    assert first.generator_logprobs.tolist() == [
        np.float32(-token / 7) for token in first.token_ids
    ]
    assert first.versions == ((-1, 0, len(first.token_ids)),)
    # By tokens 25, 24, 20, 19 with two responses of 8: 9 and 3 to the one, 8 and 4 to the other.
    assert [sorted(map(len, server.asked)) for server in servers] == [[3, 9], [4, 8]]


def test_no_requests_are_no_call(servers, build):
    assert build(servers).generate([]) == []
    assert servers[0].asked == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"die_after": 1}, "closed the connection without an answer"),
        ({"hang": True}, "no answer within 1 s"),
        ({"status": 500, "body": b'{"error": {"message": "EngineDeadError"}}'}, "EngineDeadError"),
        ({"body": b"<html>"}, "no JSON"),
        ({"body": b"{}"}, "not of vLLM 0.32's form"),
        ({"choices": {"finish_reason": "abort"}}, "ended by 'abort'"),
    ],
)
def test_the_prompts_of_a_server_that_fails_go_to_the_other(servers, build, capsys, fault, told):
    for name, value in fault.items():
        setattr(servers[0], name, value)
    generator = build(servers, seconds=1)
    requests = [request(length, seed=length) for length in (3, 9, 4, 8)]
    assert ids(generator.generate(requests)) == expected(requests)
    assert [client.address for client in generator.alive] == [servers[1].address]
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert f"server {servers[0].address}: " in said
    assert told in said
    assert KEY not in said


def test_a_server_that_stops_answering_for_its_health_is_given_up(
    servers, build, capsys, monkeypatch
):
    monkeypatch.setattr(batch, "HEALTH_EVERY", 0.1)
    monkeypatch.setattr(batch, "HEALTH_SECONDS", 0.3)
    servers[0].hang = servers[0].sick = True
    servers[1].trickle = 0.002  # busy meanwhile, and well
    requests = [request(length, seed=length) for length in (3, 9)]
    start = time.monotonic()
    assert ids(build(servers).generate(requests)) == expected(requests)
    assert time.monotonic() - start < 10
    assert "no answer within 0.3 s" in capsys.readouterr().out


def test_when_all_are_lost_each_is_named(servers, build):
    servers[0].die_after = 1
    servers[1].hang = True
    generator = build(servers, seconds=0.5)
    with pytest.raises(ServersLostError) as caught:
        generator.generate([request(length) for length in (3, 9, 4, 8)])
    assert f"{servers[0].address}: it closed the connection" in str(caught.value)
    assert f"{servers[1].address}: no answer within 0.5 s" in str(caught.value)
    with pytest.raises(ServersLostError):
        generator.generate([request(3)])


def test_a_server_that_is_back_gets_weights_and_prompts_again(servers, build):
    servers[0].die_after = 0
    generator = build(servers)
    generator.generate([request(3), request(4)])
    generator.update_weights(iter([]), 5)
    servers[0].die_after = None
    generator.update_weights(iter([]), 6)
    one, two = servers[0].address, servers[1].address
    assert generator._sender.sent == [[two], [one, two]]
    groups = generator.generate([request(3), request(4)])
    assert [r.versions[0].version for group in groups for r in group] == [6] * 4
    assert [len(server.asked) for server in servers] == [1, 3]


def test_a_server_that_refuses_the_weights_gets_no_prompts(servers, build, capsys):
    generator = build(servers)
    generator._sender.failures = {servers[1].address: RunError("wrong shape")}
    generator.update_weights(iter([]), 1)
    assert "wrong shape; the other servers go on" in capsys.readouterr().out
    generator.generate([request(3), request(4)])
    assert [len(server.asked) for server in servers] == [2, 0]
    generator._sender.failures |= {servers[0].address: RunError("no room")}
    with pytest.raises(ServersLostError, match=r"wrong shape.*no room"):
        generator.update_weights(iter([]), 2)


def test_other_weights_than_those_sent_are_refused(servers, build):
    generator = build(servers)
    generator.update_weights(iter([]), 3)
    servers[1].weight_version = "other.3"
    with pytest.raises(RunError, match=r"by the weights other\.3 and not by run\.3"):
        generator.generate([request(3), request(4)])
    generator.in_flight = True
    assert len(generator.generate([request(3), request(4)])) == 2


def test_two_spans_are_refused_unless_weights_may_change_under_way(servers, build):
    spans = [
        {"version": "run.3", "start": 0, "end": 1},
        {"version": "run.4", "start": 1, "end": 2},
    ]
    generator = build(servers[:1])
    generator.update_weights(iter([]), 4)
    servers[0].choices = {"weight_versions": spans}
    with pytest.raises(RunError, match=r"run\.3, run\.4 and not by run\.4"):
        generator.generate([request(3)])
    generator.in_flight = True
    assert generator.generate([request(3)])[0][0].versions == ((3, 0, 1), (4, 1, 2))


def picture_request() -> SamplingRequest:
    """Return a request with one picture, which has four visual tokens."""
    prompt = replace(
        bare_prompt(name="with-picture"),
        token_ids=[9, IMAGE, 9],
        expanded_ids=[9, IMAGE, IMAGE, IMAGE, IMAGE, 9],
        images=[Image.new("RGB", (8, 8))],
    )
    return SamplingRequest(prompt, PARAMS, 1)


def test_a_picture_that_is_lost_on_the_way_is_refused(servers, build, assets, monkeypatch):
    assert assets.image_token_id == IMAGE
    generator = build(servers[:1])
    generator._compared.add(servers[0].address)
    assert ids(generator.generate([picture_request()])) == expected([picture_request()])
    servers[0].lose_pictures = True
    with pytest.raises(
        DataError,
        match=rf"record with-picture: server {servers[0].address} expanded.* 3 tokens.* 6",
    ):
        generator.generate([picture_request()])
    original = wire.request_body
    monkeypatch.setattr(
        wire, "request_body", lambda *a: original(*a) | {"token_ids": [9, 9, 9, 9, 9, 9]}
    )
    with pytest.raises(DataError, match="lost or altered"):
        generator.generate([picture_request()])


def test_a_refusal_is_not_passed_on(servers, build):
    servers[0].status = 400
    servers[0].body = b'{"error": {"message": "max_tokens is too large"}}'
    with pytest.raises(RefusedError, match="status 400: max_tokens is too large"):
        build(servers).generate([request(3), request(4)])
    assert [len(server.asked) for server in servers] == [1, 1]


def test_wrong_key_and_no_key(servers, build, monkeypatch):
    servers[0].key = "another"
    with pytest.raises(SetupError, match="does not accept the key") as caught:
        build(servers).generate([request(3), request(4)])
    assert KEY not in str(caught.value)
    monkeypatch.delenv("SAPO_SERVER_KEY")
    with pytest.raises(SetupError, match="SAPO_SERVER_KEY"):
        build_without_key(servers)


def build_without_key(servers):
    options = SimpleNamespace(
        local_servers=0, servers=[s.address for s in servers], server_seconds=1
    )
    lora = SimpleNamespace(rank=0)
    config = SimpleNamespace(
        generator=options,
        model=SimpleNamespace(lora=lora),
        rollout=SimpleNamespace(in_flight=False),
    )
    return ServerGenerator(config, SimpleNamespace(path=""), seed=0, sender=Sender(servers))


def test_servers_are_set_free_at_the_end(servers, build):
    generator = build(servers)
    generator.close()
    assert generator._sender.released == [server.address for server in servers]


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


def test_the_guard_needs_a_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        KeyGuard(None)
