"""Rollouts from servers, with stand-ins for vLLM: who gets what, and what a fault does."""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import bare_prompt
from PIL import Image
from stand_in_server import IMAGE, KEY, tokens

from sapo_vl.errors import ConfigError, DataError, RunError, SetupError
from sapo_vl.generator.base import SamplingParams, SamplingRequest
from sapo_vl.generator.servers import batch, wire
from sapo_vl.generator.servers.client import RefusedError, ServerClient
from sapo_vl.generator.servers.generator import ServersLostError
from sapo_vl.generator.servers.spread import spread
from sapo_vl.system import distributed

PARAMS = SamplingParams(n=2, temperature=1.0, max_new_tokens=8)


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


def test_a_server_holds_a_limited_number_of_prompts(servers, build):
    """Two of max_num_seqs sequences, four in all, are two prompts of two responses."""
    generator = build(servers[:1])
    generator._sequences = 2
    servers[0].hang = True
    requests = [request(length, seed=length) for length in range(3, 8)]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generator.generate, requests)
        time.sleep(1)
        assert len(servers[0].asked) == 2
        servers[0].hang = False
        assert ids(future.result()) == expected(requests)


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
    generator = build(servers)
    servers[0].die_after = 0
    generator.generate([request(3), request(4)])
    generator.update_weights(iter([]), 5)
    servers[0].die_after = None
    generator.update_weights(iter([]), 6)
    one, two = servers[0].address, servers[1].address
    assert generator._sender.sent == [[two], [one, two]]
    groups = generator.generate([request(3), request(4)])
    assert [r.versions[0].version for group in groups for r in group] == [6] * 4
    assert [len(server.asked) for server in servers] == [1, 3]


def test_a_fault_that_another_rank_met_counts(servers, build, monkeypatch):
    generator = build(servers)
    one, two = servers[0].address, servers[1].address
    monkeypatch.setattr(ServerClient, "is_up", lambda client: client.address != one)
    monkeypatch.setattr(distributed, "all_gather", lambda items: [*items, {one: "is late"}])
    generator.update_weights(iter([]), 1)
    assert generator._sender.sent == [[two]]
    assert [client.address for client in generator.alive] == [two]


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


def test_weights_of_a_training_run_are_not_taken_for_the_folders(servers, build):
    """An evaluation sends no weights."""
    servers[0].weight_version = "released"
    with pytest.raises(SetupError, match="the weights released that a training run sent"):
        build(servers[:1]).generate([request(3)])


def test_two_versions_in_one_response_are_refused(servers, build):
    spans = [
        {"version": "run.3", "start": 0, "end": 1},
        {"version": "run.4", "start": 1, "end": 2},
    ]
    generator = build(servers[:1])
    generator.update_weights(iter([]), 4)
    servers[0].choices = {"weight_versions": spans}
    with pytest.raises(RunError, match=r"run\.3, run\.4 and not by run\.4"):
        generator.generate([request(3)])


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


def test_a_salt_tells_both_caches_apart(assets):
    one, other = (
        wire.request_body(picture_request(), assets, "m", salt) for salt in ("a.1", "a.2")
    )
    assert (one["cache_salt"], other["cache_salt"]) == ("a.1", "a.2")
    (first,), (second,) = one["content_parts"], other["content_parts"]
    assert first["url"] == second["url"]
    assert first["uuid"] != second["uuid"]
    assert (
        one["content_parts"]
        == wire.request_body(picture_request(), assets, "m", "a.1")["content_parts"]
    )
    plain = wire.request_body(picture_request(), assets, "m")
    assert "cache_salt" not in plain
    assert "uuid" not in plain["content_parts"][0]


def test_versions_of_a_response_under_way(servers, build):
    """With rollout.in_flight the versions that follow each other are ours and in order."""
    generator = build(servers[:1])
    generator._in_flight = True
    generator._label, generator._newest = "run.3", "run.4"

    def response(*labels):
        return wire.ServerResponse([1], np.zeros(1, np.float32), "stop", (), labels)

    for labels in (("run.3",), ("run.3", "run.4"), ("run.4",)):
        generator._check_versions(response(*labels), "run.3", "run.4")
    for labels in ((), ("run.2", "run.3"), ("run.4", "run.3"), ("run.5",), ("you.3",)):
        with pytest.raises(RunError, match="someone else changes the servers' weights"):
            generator._check_versions(response(*labels), "run.3", "run.4")
    generator._in_flight = False
    with pytest.raises(RunError, match="someone else changes"):
        generator._check_versions(response("run.3", "run.4"), "run.3", "run.4")


def test_a_refusal_is_not_passed_on(servers, build):
    servers[0].status = 400
    servers[0].body = b'{"error": {"message": "max_tokens is too large"}}'
    with pytest.raises(RefusedError, match="status 400: max_tokens is too large"):
        build(servers).generate([request(3), request(4)])
    assert [len(server.asked) for server in servers] == [1, 1]


def test_another_model_folder_matters_until_weights_are_sent(servers, build):
    """After a warm-up the learner has another folder than its servers."""
    generator = build(servers[:1], model="elsewhere")
    with pytest.raises(ConfigError, match=r"model=elsewhere and this run has .*\(model.path\)"):
        generator.generate([request(3)])
    with pytest.raises(ConfigError, match="model=elsewhere"):
        generator.update_adapter(iter([]), 1)
    generator.update_weights(iter([]), 1)
    assert len(generator.generate([request(3)])) == 1


def test_the_end_cuts_off_what_is_being_sampled(servers, build):
    servers[0].hang = servers[1].hang = True
    generator = build(servers, seconds=60)
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generator.generate, [request(3)])
        time.sleep(0.5)
        generator.close()
        with pytest.raises(asyncio.CancelledError):
            future.result()
    assert time.monotonic() - start < 10


def test_a_signal_in_the_caller_cuts_off_what_is_being_sampled(servers, build):
    servers[0].hang = servers[1].hang = True
    generator = build(servers, seconds=60)

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            generator.generate([request(3)])
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - start < 10
    assert len(generator.alive) == 2


def test_servers_are_set_free_at_the_end(servers, build):
    generator = build(servers)
    generator.close()
    assert generator._sender.released == [server.address for server in servers]
