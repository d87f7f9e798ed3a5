"""vLLM against the learner: the same ids, the same log-probs, before and after new weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from helpers import make_sample, make_samples, tiny_config
from sapo_vl.learner.rows import TrainRow

from sapo_vl.errors import DataError
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.hf_generate import HFGenerator
from sapo_vl.generator.vllm_engine import _repack
from sapo_vl.learner.policy import Policy
from sapo_vl.model.weights import load_weights

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


def learners(module, assets, prompts, completions, temperature, packing) -> list[np.ndarray]:
    """Return the learner's log-probs of the sampled responses, one array a response."""
    policy = Policy(module, assets, temperature, packing)
    rows = [
        TrainRow(p, c.token_ids) for p, cs in zip(prompts, completions, strict=True) for c in cs
    ]
    with torch.no_grad():
        values = policy(rows).out.logprobs_N
    return [v.numpy() for v in values.split([len(row.token_ids) for row in rows])]


def difference(module, assets, prompts, completions, temperature=1.0, packing="padded") -> float:
    """Return max |log mu - log pi| over all tokens of all responses."""
    flat = [c for cs in completions for c in cs]
    ours = learners(module, assets, prompts, completions, temperature, packing)
    assert all(len(c.token_ids) == len(c.generator_logprobs) for c in flat)
    return max(
        float(np.abs(c.generator_logprobs - v).max()) for c, v in zip(flat, ours, strict=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_learners(engine, network, assets, prompts, temperature):
    sampling = SamplingParams(3, temperature, 12)
    completions = engine.generate(prompts, sampling, SEEDS)
    assert [len(cs) for cs in completions] == [3] * 4
    for packing in ("padded", "shared_prefix"):
        assert difference(network, assets, prompts, completions, temperature, packing) <= BOUND


def test_the_pictures_matter_to_the_logprobs(engine, network, assets, prompts, renderer):
    """The agreement above has teeth: another picture of the same size is far beyond the bound."""
    others = renderer.render(
        [make_sample([(p.width, p.height) for p in prompt.images], seed=99) for prompt in prompts]
    )
    completions = engine.generate(prompts, SAMPLING, SEEDS)
    for prompt, other, own in zip(prompts[1:], others[1:], completions[1:], strict=True):
        assert other.expanded_ids == prompt.expanded_ids
        assert difference(network, assets, [other], [own]) > 1e-3


def test_new_weights_are_used(engine, network, assets, prompts):
    before = engine.generate(prompts, SAMPLING, SEEDS)
    perturb(network)
    engine.update_weights(named(network))
    completions = engine.generate(prompts, SAMPLING, SEEDS)
    assert difference(network, assets, prompts, completions) <= BOUND
    assert difference(network, assets, prompts, before) > 0.1


def load_tower(module: torch.nn.Module, weight: torch.Tensor) -> None:
    """Change the engine's vision tower in place, as a transfer from another process does."""
    module.visual.pos_embed.weight.data.copy_(weight)


def test_stale_image_embeddings_are_noticed(engine, network, assets, prompts):
    """Without emptying the encoder cache the old tower's embeddings stay."""
    engine.generate(prompts, SAMPLING, SEEDS)
    perturb(network, "pos_embed", 2.0)
    weight = network.model.visual.pos_embed.weight.detach().clone()
    engine._llm.apply_model(partial(load_tower, weight=weight))
    engine.reset_caches(encoder=False)
    stale = engine.generate(prompts, SAMPLING, SEEDS)
    assert difference(network, assets, prompts[1:], stale[1:]) > 1e-3
    assert difference(network, assets, prompts[:1], stale[:1]) <= BOUND  # no picture, no cache
    engine.reset_caches()
    fresh = engine.generate(prompts, SAMPLING, SEEDS)
    assert difference(network, assets, prompts, fresh) <= BOUND


def test_a_reload_without_emptying_the_encoder_cache_fails(engine, network, assets, prompts):
    """vLLM's reload empties the worker's half of the cache; the scheduler's half must follow."""
    engine.generate(prompts, SAMPLING, SEEDS)
    perturb(network, "visual", 0.1)
    weights = iter(list(named(network)))
    engine._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    engine._llm.apply_model(_repack)
    engine.reset_caches(encoder=False)
    with pytest.raises(RuntimeError, match="Encoder cache miss"):
        engine.generate(prompts, SAMPLING, SEEDS)
    inner = engine._llm.llm_engine  # what the failed call left behind would be scheduled for ever
    inner.abort_request(list(inner.output_processor.request_states), internal=True)
    engine.update_weights(named(network))
    fresh = engine.generate(prompts, SAMPLING, SEEDS)
    assert difference(network, assets, prompts, fresh) <= BOUND


def test_a_head_that_is_not_packed_anew_is_noticed(engine, network, assets, prompts):
    perturb(network, "embed_tokens", 0.1)
    weights = iter(list(named(network)))
    engine._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    engine.reset_caches()
    assert difference(network, assets, prompts, engine.generate(prompts, SAMPLING, SEEDS)) > 1e-3
    engine.update_weights(named(network))
    assert difference(network, assets, prompts, engine.generate(prompts, SAMPLING, SEEDS)) <= BOUND


def test_prompt_ids_are_compared_with_the_processors(engine, renderer):
    """All sizes of pictures pass; a prompt whose expansion is another one is refused."""
    sizes = [(16, 16), (17, 130), (128, 128), (400, 33), (100, 90)]
    prompts = renderer.render([make_sample([size], seed=i) for i, size in enumerate(sizes)])
    engine.generate(prompts, SamplingParams(1, 0.0, 1), [0] * len(prompts))
    prompts[2].expanded_ids = [*prompts[2].expanded_ids[:-1], 7]
    with pytest.raises(DataError, match=rf"record {prompts[2].sample.id}: vLLM expanded"):
        engine.generate(prompts, SamplingParams(1, 0.0, 1), [0] * len(prompts))


def test_vision_ids_are_never_sampled(engine, network, assets, prompts):
    """A model that loves <|image_pad|> says it without the ban, and never with it."""
    loved = assets.image_token_id
    with torch.no_grad():
        embedding = network.get_input_embeddings().weight
        # every state gets a large first component, which only the loved id's row looks at
        for layer in network.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(0.01)
            layer.mlp.down_proj.weight.mul_(0.01)
        embedding.mul_(0.05)
        embedding[:, 0] = 0.5
        embedding[loved, 0] = 5
        network.model.language_model.norm.weight.fill_(1)
    engine.update_weights(named(network))
    ids = torch.tensor([prompts[0].expanded_ids])
    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, -1]
    assert logits.argmax().item() == loved, "the test's own premise"
    assert logits[loved] > 40 + logits.topk(2).values[1]
    completions = engine.generate(prompts, SAMPLING, SEEDS)
    sampled = {token for cs in completions for c in cs for token in c.token_ids}
    assert not sampled & set(assets.banned_ids)
    assert len(assets.banned_ids) == 4
    assert difference(network, assets, prompts, completions) <= BOUND
    reference = HFGenerator.__new__(HFGenerator)
    reference._assets, reference._device, reference._model = assets, "cpu", network.eval()
    again = reference.generate(prompts, SAMPLING, SEEDS)
    sampled = {token for cs in again for c in cs for token in c.token_ids}
    assert not sampled & set(assets.banned_ids)


def flat(completions) -> list[tuple]:
    return [
        (tuple(c.token_ids), c.generator_logprobs.tobytes(), c.text, c.finish_reason)
        for cs in completions
        for c in cs
    ]


def test_seeds_reproduce_rollouts_to_the_bit(engine, prompts):
    sampling = SamplingParams(4, 1.0, 12)
    first = engine.generate(prompts, sampling, SEEDS)
    assert len({entry[0] for entry in flat(first)}) > 12  # random, not one answer
    engine.reset_caches()
    assert flat(engine.generate(prompts, sampling, SEEDS)) == flat(first)
    for i, prompt in enumerate(prompts):  # alone, whatever else is in the batch
        assert flat(engine.generate([prompt], sampling, [SEEDS[i]])) == flat([first[i]])
    turned = engine.generate(prompts[::-1], sampling, SEEDS[::-1])
    assert flat(turned[::-1]) == flat(first)
    other = engine.generate(prompts, sampling, [seed + 1000 for seed in SEEDS])
    assert flat(other) != flat(first)


def test_a_response_ends_at_the_end_token_or_is_cut(engine, network, assets, prompts):
    cut = engine.generate(prompts, SamplingParams(2, 1.0, 3), SEEDS)
    assert {c.finish_reason for cs in cut for c in cs if len(c.token_ids) < 3} <= {"stop"}
    assert {len(c.token_ids) for cs in cut for c in cs if c.finish_reason == "length"} == {3}
    (end,) = assets.eos_ids
    with torch.no_grad():  # a model that ends at once: every other row of the head is small
        network.get_input_embeddings().weight.mul_(0.01)
        network.model.language_model.norm.weight.zero_()
    engine.update_weights(named(network))  # all ids equally likely
    ended = [c for cs in engine.generate(prompts, SamplingParams(16, 1.0, 100), SEEDS) for c in cs]
    stopped = [c for c in ended if c.finish_reason == "stop"]
    assert stopped
    for c in ended:
        assert (end in c.token_ids) == (c.finish_reason == "stop")
        assert c.token_ids.index(end) == len(c.token_ids) - 1 if end in c.token_ids else True
        assert "<|im_end|>" not in c.text
        # uniform over all ids but the banned ones
        allowed = network.get_input_embeddings().num_embeddings - len(assets.banned_ids)
        np.testing.assert_allclose(c.generator_logprobs, -np.log(allowed), atol=1e-5)


def test_greedy_is_the_same_in_both_generators(engine, assets, tiny_folder, prompts):
    reference = HFGenerator(tiny_config(tiny_folder), assets)
    greedy = SamplingParams(1, 0.0, 12)
    ours = engine.generate(prompts, greedy, SEEDS)
    theirs = reference.generate(prompts, greedy, SEEDS)
    assert [c.token_ids for (c,) in ours] == [c.token_ids for (c,) in theirs]
    # vLLM holds back the bytes of a character that is not whole yet
    cut = "\N{REPLACEMENT CHARACTER}"
    assert [c.text.rstrip(cut) for (c,) in ours] == [c.text.rstrip(cut) for (c,) in theirs]
    assert [c.finish_reason for (c,) in ours] == [c.finish_reason for (c,) in theirs]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_references_logprobs_are_the_learners(assets, tiny_folder, prompts, temperature):
    reference = HFGenerator(tiny_config(tiny_folder), assets)
    completions = reference.generate(prompts, SamplingParams(3, temperature, 12), SEEDS)
    module = load_weights(assets, "float32")
    assert difference(module, assets, prompts, completions, temperature) <= BOUND
    perturb(module)
    reference.update_weights(named(module))
    completions = reference.generate(prompts, SamplingParams(3, temperature, 12), SEEDS)
    assert difference(module, assets, prompts, completions, temperature) <= BOUND
    again = reference.generate(prompts, SamplingParams(3, temperature, 12), SEEDS)
    assert flat(again) == flat(completions)
