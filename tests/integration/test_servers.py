"""One real vLLM server on this machine against the engine in this process: the same to the bit.

Tests run in this order: the last one kills the server and has it started anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from helpers import make_samples, tiny_config
from stand_in_server import StandInServer

from sapo_vl.errors import DataError
from sapo_vl.generator.base import SamplingParams, build, requests_of
from sapo_vl.generator.servers import wire
from sapo_vl.generator.servers.generator import ServerGenerator, ServersLostError
from sapo_vl.generator.servers.pictures import compare_patches
from sapo_vl.model.weights import load_weights

pytestmark = pytest.mark.slow

SAMPLING = SamplingParams(n=3, temperature=1.0, max_new_tokens=12)
SEEDS = (11, 22, 33, 44)

SERVER_ENDS = 60.0
"""Seconds within which the death of a server has to be noticed."""


@pytest.fixture(scope="module")
def served(tiny_folder, assets, tmp_path_factory) -> Iterator[ServerGenerator]:
    """Return a generator with one local server."""
    config = tiny_config(
        tiny_folder,
        "generator.backend=server",
        "generator.local_servers=1",
        "generator.server_seconds=60",
        f"run.dir={tmp_path_factory.mktemp('served')}",
    )
    generator = build(config, assets, seed=0)
    assert isinstance(generator, ServerGenerator)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def prompts(renderer):
    """Prompts with 0, 1, 2 and 4 pictures."""
    return renderer.render(make_samples())


@pytest.fixture(scope="module")
def other_weights(assets) -> dict[str, torch.Tensor]:
    """Return weights that differ from the folder's in each tensor."""
    torch.manual_seed(3)
    module = load_weights(assets, "float32")
    return {n: (p + 0.02 * torch.randn_like(p)).detach() for n, p in module.named_parameters()}


def told(groups) -> list[tuple]:
    """Return what a sampler says of each response, log-probs to the last bit."""
    return [
        (r.token_ids, r.text, r.finish_reason, r.generator_logprobs.tolist())
        for group in groups
        for r in group
    ]


def address_of(served) -> str:
    return served._clients[0].address


@pytest.mark.parametrize(
    "params",
    [
        SAMPLING,
        replace(SAMPLING, temperature=0.6, top_p=0.9, top_k=20, presence_penalty=0.5),
        replace(SAMPLING, n=1, temperature=0.0),
    ],
)
def test_responses_are_the_engines_to_the_bit(served, engine, prompts, params):
    requests = requests_of(prompts, params, SEEDS)
    found = served.generate(requests)
    assert told(found) == told(engine.generate(requests))
    assert told(served.generate(requests)) == told(found)
    assert [len(prompt.images) for prompt in prompts] == [0, 1, 2, 4]
    for group in found:
        for rollout in group:
            assert rollout.versions == ((-1, 0, len(rollout.token_ids)),)


def test_it_may_be_asked_from_a_thread(served, engine, prompts):
    requests = requests_of(prompts, SAMPLING, SEEDS)
    found = []
    thread = threading.Thread(target=lambda: found.append(served.generate(requests)))
    thread.start()
    thread.join()
    assert told(found[0]) == told(engine.generate(requests))


def test_all_routes_want_the_key(served):
    paths = ("/weight_info", "/collective_rpc", "/v1/models", "/server_info", "/metrics")
    for path in paths:
        assert httpx.get(address_of(served) + path, trust_env=False).status_code == 401
    assert httpx.get(address_of(served) + "/health", trust_env=False).status_code == 200
    (log,) = served._local._folder.glob("*.log")
    assert served._key not in log.read_text()


def test_a_lost_picture_is_refused(served, prompts, monkeypatch):
    original = wire.request_body

    def without_pictures(*arguments):
        body = original(*arguments)
        body.pop("content_parts", None)
        return body

    monkeypatch.setattr(wire, "request_body", without_pictures)
    with pytest.raises(DataError, match=r"record noise-10-1: server .* a picture was lost"):
        served.generate(requests_of(prompts[1:2], SAMPLING, SEEDS[:1]))


def test_other_patches_are_noticed(served, prompts):
    client = served._clients[0]

    async def compare(prompt) -> None:
        async with client.session() as session:
            await compare_patches(client, session, prompt, 30)

    asyncio.run(compare(prompts[2]))
    values = prompts[2].pixel_values.clone()
    values[-1, -1] = torch.nextafter(values[-1, -1], torch.tensor(9.0))
    with pytest.raises(DataError, match="other patches"):
        asyncio.run(compare(replace(prompts[2], pixel_values=values)))


def test_prompts_of_a_dead_server_are_sampled_here(served, engine, prompts, monkeypatch, capsys):
    dying = StandInServer(key=served._key)
    dying.die_after = 0
    monkeypatch.setattr(served, "_clients", [*served._clients])
    served._clients.insert(0, type(served._clients[0])(dying.address, served._key))
    requests = requests_of(prompts, SAMPLING, SEEDS)
    assert told(served.generate(requests)) == told(engine.generate(requests))
    assert f"server {dying.address}: it closed the connection" in capsys.readouterr().out
    served._faults.clear()
    dying.close()


def test_new_weights_and_their_version(served, engine, assets, prompts, other_weights):
    requests = requests_of(prompts, SAMPLING, SEEDS)
    before = told(served.generate(requests))
    served.update_weights(other_weights.items(), 7)
    engine.update_weights(other_weights.items())
    found, wanted = served.generate(requests), engine.generate(requests)
    engine.update_weights(load_weights(assets, "float32").named_parameters())
    assert told(found) != before
    assert told(found) == told(wanted)
    for group in found:
        for rollout in group:
            assert rollout.versions == ((7, 0, len(rollout.token_ids)),)


def test_weights_that_arrive_in_the_middle_of_responses(
    served, engine, assets, prompts, monkeypatch
):
    """rollout.in_flight: versions 7, then 8; afterwards no cache holds old values."""
    monkeypatch.setattr(served, "_in_flight", True)
    monkeypatch.setattr(served._sender, "in_flight", True)
    requests = requests_of(prompts, replace(SAMPLING, max_new_tokens=150), SEEDS)
    wholly = [r for group in served.generate(requests) for r in group]  # by version 7
    folder = dict(load_weights(assets, "float32").named_parameters())
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(served.generate, requests)
        time.sleep(0.3)
        served.update_weights(folder.items(), 8)
        mixed = [r for group in under_way.result() for r in group]
    switched = 0
    for found, old in zip(mixed, wholly, strict=True):
        first, *later = found.versions
        assert (first.version, first.start) == (7, 0)
        assert found.token_ids[: first.end] == old.token_ids[: first.end]
        begun = found.generator_logprobs[: first.end]
        assert np.abs(begun - old.generator_logprobs[: first.end]).max() < 1e-5
        for span in later:
            assert span == (8, first.end, len(found.token_ids))
            switched += found.prompt.images != ()
    assert switched, [rollout.versions for rollout in mixed]
    again = requests_of(prompts, SAMPLING, SEEDS)
    assert told(served.generate(again)) == told(engine.generate(again))


def sample_for_ever(served, requests) -> None:
    while True:
        served.generate(requests)


def engine_process(group: int) -> int:
    """Return the process that holds the server's engine: a child of the one that talks HTTP.

    Multiprocessing's resource tracker is the other child, and small.
    """
    (server,) = children(group)
    return max(
        children(server), key=lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    )


def children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.mark.long
def test_a_server_that_is_killed_comes_back_with_the_weights(
    served, engine, assets, prompts, other_weights
):
    """Its engine's process is killed in the middle of a batch."""
    requests = requests_of(prompts, replace(SAMPLING, max_new_tokens=100), SEEDS)
    victim = engine_process(served._local.pids[0])
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    start = time.monotonic()
    with pytest.raises(ServersLostError) as caught:
        sample_for_ever(served, requests)
    assert f"no server is left to sample: {address_of(served)}" in str(caught.value)
    assert time.monotonic() - start < SERVER_ENDS
    served.update_weights(other_weights.items(), 9)
    engine.update_weights(other_weights.items())
    wanted = told(engine.generate(requests_of(prompts, SAMPLING, SEEDS)))
    engine.update_weights(load_weights(assets, "float32").named_parameters())
    found = served.generate(requests_of(prompts, SAMPLING, SEEDS))
    assert told(found) == wanted
    assert {r.versions[0].version for group in found for r in group} == {9}
    assert np.isfinite(found[0][0].generator_logprobs).all()
