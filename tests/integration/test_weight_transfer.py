"""Weights through vLLM's own transfer into a running engine: the same as a reload, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers import make_samples
from transfer_servers import EngineServer

from sapo_vl.generator.base import SamplingParams, requests_of
from sapo_vl.generator.servers import chunks, routes, transfer
from sapo_vl.model.weights import load_weights

pytestmark = pytest.mark.slow

REQUESTS = (SamplingParams(n=2, temperature=1.0, max_new_tokens=8), (11, 22, 33, 44))


@pytest.fixture
def server(engine, assets) -> Iterator[EngineServer]:
    yield EngineServer(engine._llm)
    engine._llm.llm_engine.reset_prefix_cache()
    engine.update_weights(load_weights(assets, "float32").named_parameters())


@pytest.fixture(scope="module")
def prompts(renderer):
    """Prompts with 0, 1, 2 and 4 pictures."""
    return renderer.render(make_samples())


@pytest.fixture(scope="module")
def weights(assets) -> dict[str, torch.Tensor]:
    """Return weights that differ from the engine's in each tensor, the tied head included."""
    torch.manual_seed(5)
    module = load_weights(assets, "float32")
    return {n: (p + 0.02 * torch.randn_like(p)).detach() for n, p in module.named_parameters()}


@pytest.fixture(scope="module")
def reloaded(engine, assets, prompts, weights):
    """Return the responses by these weights after vLLM's reload, which other tests check."""
    engine.update_weights(weights.items())
    found = sampled(engine, prompts)
    engine.update_weights(load_weights(assets, "float32").named_parameters())
    return found


def sampled(engine, prompts) -> tuple[list[list[int]], np.ndarray]:
    groups = engine.generate(requests_of(prompts, *REQUESTS))
    rollouts = [rollout for group in groups for rollout in group]
    logprobs = np.concatenate([rollout.generator_logprobs for rollout in rollouts])
    return [rollout.token_ids for rollout in rollouts], logprobs


def sender() -> transfer.WeightSender:
    return transfer.WeightSender(routes.ChunkRoute(), "me")


def check_equal(found, wanted) -> None:
    assert found[0] == wanted[0]
    assert np.abs(found[1] - wanted[1]).max() <= 1e-6


@pytest.mark.parametrize("way", ["shared memory", "gloo"])
@pytest.mark.parametrize("limit", [50_000, chunks.CHUNK_BYTES])
def test_log_probs_are_a_reloads(
    engine, server, prompts, weights, reloaded, monkeypatch, way, limit
):
    """In chunks that divide layers, and their fused matrices, as in a single one."""
    monkeypatch.setattr(chunks.pack, "__defaults__", (limit,))
    if way == "gloo":
        monkeypatch.setattr(routes, "sees", lambda *_: False)
    before = sampled(engine, prompts)  # both caches hold what these weights made
    assert before[0] != reloaded[0]
    sender().send([server], weights.items(), 3)
    check_equal(sampled(engine, prompts), reloaded)
    assert engine._llm.get_weight_version() == "me.3"
    times = server.calls.count("/update_weights")
    assert times == 2 if limit == chunks.CHUNK_BYTES else times > 20


@pytest.mark.parametrize("cache", ["/reset_prefix_cache", "/reset_encoder_cache"])
def test_a_cache_that_is_not_dropped_is_noticed(
    engine, server, prompts, weights, reloaded, monkeypatch, cache
):
    sampled(engine, prompts)
    post = server.post

    def skip(path, json=None, timeout=60.0):
        return {"success": True} if path.startswith(cache) else post(path, json, timeout)

    monkeypatch.setattr(server, "post", skip)
    sender().send([server], weights.items(), 3)
    stale = sampled(engine, prompts)
    assert stale[0] != reloaded[0] or np.abs(stale[1] - reloaded[1]).max() > 1e-3


FAULTS = {
    "missing": "model.language_model.layers.1.self_attn.q_proj.weight didn't come",
    "shape": r"layers.1.mlp.down_proj.weight came as \[127, 512\], and is \[128, 512\]",
    "unknown": "this server's model has no weight model.language_model.layers.9.x",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_the_models_are_refused(
    engine, server, prompts, weights, reloaded, fault
):
    """Each by its name; the server stays paused, and the next update puts all right."""
    wrong = dict(weights)
    if fault == "missing":
        del wrong["model.language_model.layers.1.self_attn.q_proj.weight"]
    elif fault == "shape":
        name = "model.language_model.layers.1.mlp.down_proj.weight"
        wrong[name] = wrong[name][:-1]
    else:
        wrong["model.language_model.layers.9.x"] = torch.zeros(2)
    mine = sender()
    with pytest.raises(transfer.TransferError, match=FAULTS[fault]):
        mine.send([server], wrong.items(), 3)
    assert "/resume" not in server.calls
    mine.send([server], weights.items(), 4)
    check_equal(sampled(engine, prompts), reloaded)


def test_an_update_that_nobody_finished_is_followed_by_a_whole_one(
    engine, server, prompts, weights, reloaded
):
    """As after the kill of a learner: some layers got weights, one got a part."""
    first = sender()
    half = list(weights.items())[: len(weights) // 2]
    first._connect([server], first._claim_all([server]))
    server.post("/start_weight_update")
    for chunk, path in routes._shared_chunks(half):
        server.post("/update_weights", {"update_info": chunk.description() | {"path": path}})
    sender().send([server], weights.items(), 5)
    check_equal(sampled(engine, prompts), reloaded)
