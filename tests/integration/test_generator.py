"""Generators against the learner: same ids, same log-probs, before and after weight updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import make_sample, make_samples, tiny_config

from sapo_vl.errors import DataError
from sapo_vl.generator import vllm_engine
from sapo_vl.generator.base import SamplingParams, requests_of
from sapo_vl.generator.engine_input import EngineInputs
from sapo_vl.generator.hf_generate import HFGenerator
from sapo_vl.generator.vllm_engine import _zero_deepstack, repack
from sapo_vl.learner.policy import Policy
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import load_weights
from sapo_vl.schema import Rollout

pytestmark = pytest.mark.slow

BOUND = 1e-4
SAMPLING = SamplingParams(n=3, temperature=1.0, max_new_tokens=12)
SEEDS = (11, 22, 33, 44)


@pytest.fixture
def network(assets, engine) -> Iterator[torch.nn.Module]:
    """Return the module of the weights that the engine holds; the engine gets them back after."""
    module = load_weights(assets, "float32")
    yield module
    engine.update_weights(named(load_weights(assets, "float32")))


@pytest.fixture(scope="module")
def prompts(renderer):
    return renderer.render(make_samples())


def named(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value.detach()) for name, value in module.named_parameters())


def perturb(module: torch.nn.Module, part: str = "", scale: float = 0.02) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if part in name:
                value.add_(scale * torch.randn_like(value))


def flatten(groups) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def difference(module, assets, groups, temperature=1.0, layout="padded") -> float:
    """Return max |log mu - log pi| over all tokens of all rollouts, in nats."""
    rollouts = flatten(groups)
    lengths = [len(r.token_ids) for r in rollouts]
    assert [len(r.generator_logprobs) for r in rollouts] == lengths
    with torch.no_grad():
        trainer_logprobs = Policy(module, assets, temperature, layout)(rollouts).out.logprobs_N
    generator_logprobs = np.concatenate([r.generator_logprobs for r in rollouts])
    return float(np.abs(generator_logprobs - trainer_logprobs.numpy()).max())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_learners(engine, network, assets, prompts, temperature):
    params = SamplingParams(3, temperature, 12)
    rollouts = engine.generate(requests_of(prompts, params, SEEDS))
    assert [len(group) for group in rollouts] == [3] * 4
    for layout in ("padded", "shared_prefix"):
        assert difference(network, assets, rollouts, temperature, layout) <= BOUND


def test_the_pictures_matter_to_the_logprobs(engine, network, assets, prompts, renderer):
    """Another picture of the same size is far outside the bound of the test above."""
    others = renderer.render(
        [make_sample([(p.width, p.height) for p in prompt.images], seed=99) for prompt in prompts]
    )
    rollouts = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    for prompt, other, group in zip(prompts[1:], others[1:], rollouts[1:], strict=True):
        assert other.expanded_ids == prompt.expanded_ids
        moved = [replace(rollout, prompt=other) for rollout in group]
        assert difference(network, assets, [moved]) > 1e-3


def test_new_weights_are_used(engine, network, assets, prompts):
    before = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    perturb(network)
    engine.update_weights(named(network))
    rollouts = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    assert difference(network, assets, rollouts) <= BOUND
    assert difference(network, assets, before) > 0.1


def load_tower(module: torch.nn.Module, weight: torch.Tensor) -> None:
    """Change the engine's vision tower in place, as a transfer from another process does."""
    module.visual.pos_embed.weight.data.copy_(weight)


def test_stale_image_embeddings_are_noticed(engine, network, assets, prompts):
    """Without emptying the encoder cache the old tower's embeddings stay."""
    engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    perturb(network, "pos_embed", 2.0)
    weight = network.model.visual.pos_embed.weight.detach().clone()
    engine._llm.apply_model(partial(load_tower, weight=weight))
    engine.reset_caches(encoder=False)
    stale = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    assert difference(network, assets, stale[1:]) > 1e-3
    assert difference(network, assets, stale[:1]) <= BOUND  # no picture, no cache
    engine.reset_caches()
    fresh = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    assert difference(network, assets, fresh) <= BOUND


def test_a_reload_without_emptying_the_encoder_cache_fails(engine, network, assets, prompts):
    """vLLM's reload empties the worker's half of the cache; the scheduler's half must follow."""
    engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    perturb(network, "visual", 0.1)
    weights = iter(list(named(network)))
    engine._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    engine._llm.apply_model(repack)
    engine.reset_caches(encoder=False)
    with pytest.raises(RuntimeError, match="Encoder cache miss"):
        engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    inner = engine._llm.llm_engine  # what the failed call left behind would be scheduled for ever
    inner.abort_request(list(inner.output_processor.request_states), internal=True)
    engine.update_weights(named(network))
    fresh = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    assert difference(network, assets, fresh) <= BOUND


def test_a_head_that_is_not_repacked_is_noticed(engine, network, assets, prompts):
    perturb(network, "embed_tokens", 0.1)
    weights = iter(list(named(network)))
    engine._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    engine.reset_caches()
    assert (
        difference(network, assets, engine.generate(requests_of(prompts, SAMPLING, SEEDS))) > 1e-3
    )
    engine.update_weights(named(network))
    assert (
        difference(network, assets, engine.generate(requests_of(prompts, SAMPLING, SEEDS))) <= BOUND
    )


def spoil_deepstack(module: torch.nn.Module) -> int:
    """Leave garbage in the engine's deepstack rows, as a sleep may; return their number."""
    for rows in module.deepstack_input_embeds:
        rows.fill_(3.0)
    return len(module.deepstack_input_embeds)


def test_deepstack_rows_that_a_sleep_lost_are_zeroed(engine, network, assets, prompts):
    text = requests_of(prompts[:1], SAMPLING, SEEDS[:1])
    assert engine._llm.apply_model(spoil_deepstack)[0] > 0
    engine.reset_caches()
    assert difference(network, assets, engine.generate(text)) > 1e-2
    engine._llm.apply_model(_zero_deepstack)
    engine.reset_caches()
    assert difference(network, assets, engine.generate(text)) <= BOUND


def test_every_size_of_picture_is_taken_as_we_process_it(engine, renderer):
    sizes = [(16, 16), (17, 130), (128, 128), (400, 33), (100, 90)]
    prompts = renderer.render([make_sample([size], seed=i) for i, size in enumerate(sizes)])
    requests = requests_of(prompts, SamplingParams(1, 0.0, 1), [0] * len(prompts))
    assert len(engine.generate(requests)) == 5
    for prompt in prompts:  # and as vLLM itself does
        EngineInputs(engine._llm, engine._assets).process(prompt)
    prompts[2].expanded_ids = prompts[1].expanded_ids
    with pytest.raises(DataError, match=rf"record {prompts[2].sample.id}: .* visual tokens"):
        engine.generate(requests)


def test_the_first_pictures_are_compared_with_vllms_own_processing(engine, renderer):
    inputs = EngineInputs(engine._llm, engine._assets)
    (prompt,) = renderer.render([make_sample([(64, 64)])])
    patches, ids = prompt.pixel_values, prompt.expanded_ids
    prompt.pixel_values = patches + 0.01
    with pytest.raises(DataError, match=f"record {prompt.sample.id}: vLLM makes other patches"):
        inputs.process(prompt)
    prompt.pixel_values, prompt.expanded_ids = patches, [*ids, 7]
    with pytest.raises(DataError, match=f"record {prompt.sample.id}: vLLM expanded"):
        inputs.process(prompt)
    prompt.expanded_ids = ids
    inputs.process(prompt)
    prompt.expanded_ids = [*ids, 7]
    inputs.process(prompt)  # once is enough


def test_each_step_of_the_engine_is_a_heartbeat(engine, prompts, monkeypatch):
    beats = []
    monkeypatch.setattr(vllm_engine, "beat", lambda: beats.append(1))
    engine.generate(requests_of(prompts[:1], SamplingParams(1, 0.0, 5), [0]))
    assert len(beats) >= 2


def test_vision_ids_are_never_sampled(engine, network, assets, prompts):
    """A model that prefers <|image_pad|> samples it without the ban, and never with it."""
    preferred = assets.image_token_id
    with torch.no_grad():
        embedding = network.get_input_embeddings().weight
        # every state gets a large first component, which only the preferred id's row looks at
        for layer in network.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(0.01)
            layer.mlp.down_proj.weight.mul_(0.01)
        embedding.mul_(0.05)
        embedding[:, 0] = 0.5
        embedding[preferred, 0] = 5
        network.model.language_model.norm.weight.fill_(1)
    engine.update_weights(named(network))
    ids = torch.tensor([prompts[0].expanded_ids])
    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, -1]
    assert logits.argmax().item() == preferred, "the test's own premise"
    assert logits[preferred] > 40 + logits.topk(2).values[1]
    rollouts = engine.generate(requests_of(prompts, SAMPLING, SEEDS))
    sampled = {token for r in flatten(rollouts) for token in r.token_ids}
    assert not sampled & set(assets.banned_ids)
    assert len(assets.banned_ids) == 4
    assert difference(network, assets, rollouts) <= BOUND
    reference = HFGenerator.__new__(HFGenerator)
    reference._assets, reference._device, reference._model = assets, "cpu", network.eval()
    again = reference.generate(requests_of(prompts, SAMPLING, SEEDS))
    sampled = {token for r in flatten(again) for token in r.token_ids}
    assert not sampled & set(assets.banned_ids)


def contents(groups) -> list[tuple]:
    return [
        (tuple(r.token_ids), r.generator_logprobs.tobytes(), r.text, r.finish_reason)
        for r in flatten(groups)
    ]


def test_seeds_reproduce_rollouts_to_the_bit(engine, prompts):
    params = SamplingParams(4, 1.0, 12)
    first = engine.generate(requests_of(prompts, params, SEEDS))
    assert len({entry[0] for entry in contents(first)}) > 12  # random, not one answer
    engine.reset_caches()
    assert contents(engine.generate(requests_of(prompts, params, SEEDS))) == contents(first)
    for i, prompt in enumerate(prompts):  # alone, whatever else is in the batch
        assert contents(engine.generate(requests_of([prompt], params, [SEEDS[i]]))) == contents(
            [first[i]]
        )
    backwards = engine.generate(requests_of(prompts[::-1], params, SEEDS[::-1]))
    assert contents(backwards[::-1]) == contents(first)
    other = engine.generate(requests_of(prompts, params, [seed + 1000 for seed in SEEDS]))
    assert contents(other) != contents(first)


def test_one_call_may_hold_sampled_and_greedy_requests(engine, prompts):
    sampled = requests_of(prompts, SamplingParams(4, 1.0, 12), SEEDS)
    greedy = requests_of(prompts, SamplingParams(1, 0.0, 6), SEEDS)
    apart = [engine.generate(sampled), engine.generate(greedy)]
    together = engine.generate([*sampled, *greedy])
    assert [len(group) for group in together] == [4] * 4 + [1] * 4
    assert contents(together) == contents(apart[0]) + contents(apart[1])


def test_a_response_ends_at_the_end_token_or_is_cut(engine, network, assets, prompts):
    cut = flatten(engine.generate(requests_of(prompts, SamplingParams(2, 1.0, 3), SEEDS)))
    assert {r.finish_reason for r in cut if len(r.token_ids) < 3} <= {"stop"}
    assert {len(r.token_ids) for r in cut if r.finish_reason == "length"} == {3}
    (end,) = assets.eos_ids
    with torch.no_grad():  # a model that ends at once: every other row of the head is small
        network.get_input_embeddings().weight.mul_(0.01)
        network.model.language_model.norm.weight.zero_()
    engine.update_weights(named(network))  # all ids equally likely
    ended = flatten(engine.generate(requests_of(prompts, SamplingParams(16, 1.0, 100), SEEDS)))
    assert any(r.finish_reason == "stop" for r in ended)
    for r in ended:
        assert (end in r.token_ids) == (r.finish_reason == "stop")
        assert end not in r.token_ids[:-1]
        assert "<|im_end|>" not in r.text
        # uniform over all ids but the banned ones
        allowed = network.get_input_embeddings().num_embeddings - len(assets.banned_ids)
        np.testing.assert_allclose(r.generator_logprobs, -np.log(allowed), atol=1e-5)


def test_greedy_is_the_same_in_both_generators(engine, assets, tiny_folder, prompts):
    reference = HFGenerator(tiny_config(tiny_folder), assets)
    greedy = SamplingParams(1, 0.0, 12)
    ours = flatten(engine.generate(requests_of(prompts, greedy, SEEDS)))
    theirs = flatten(reference.generate(requests_of(prompts, greedy, SEEDS)))
    assert [r.token_ids for r in ours] == [r.token_ids for r in theirs]
    # vLLM holds back the bytes of an incomplete character
    cut = "\N{REPLACEMENT CHARACTER}"
    assert [r.text.rstrip(cut) for r in ours] == [r.text.rstrip(cut) for r in theirs]
    assert [r.finish_reason for r in ours] == [r.finish_reason for r in theirs]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_references_logprobs_are_the_learners(tiny_folders, family, temperature):
    folder = tiny_folders(family)
    config, assets = tiny_config(folder), open_assets(folder)
    prompts = PromptRenderer(assets, config.data).render(make_samples())
    reference, params = HFGenerator(config, assets), SamplingParams(3, temperature, 12)
    module = load_weights(assets, "float32")
    rollouts = reference.generate(requests_of(prompts, params, SEEDS))
    assert difference(module, assets, rollouts, temperature) <= BOUND
    perturb(module)
    layout = assets.family.to_checkpoint_layout
    reference.update_weights((name, layout(name, tensor)) for name, tensor in named(module))
    rollouts = reference.generate(requests_of(prompts, params, SEEDS))
    assert difference(module, assets, rollouts, temperature) <= BOUND
    assert contents(reference.generate(requests_of(prompts, params, SEEDS))) == contents(rollouts)
