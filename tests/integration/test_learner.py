"""The learner on one rank: the forward path, the step, checkpoints, freezing, export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deepspeed.utils import get_z3_leaf_modules
from helpers import distance, make_rollouts, make_sample, make_samples, tiny_config

from sapo_vl import sft
from sapo_vl.algorithm import objectives
from sapo_vl.errors import ConfigError
from sapo_vl.learner.engine import Learner
from sapo_vl.learner.policy import Policy
from sapo_vl.learner.saved_weights import whole_weights
from sapo_vl.model.assets import BAN_BIAS, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import DTYPES, freeze, load_weights, trainable_rows
from sapo_vl.schema import Rollout

pytestmark = pytest.mark.slow

STAGES, LR = [0, 1, 2, 3], 1e-3
LAYOUTS = ["padded", "shared_prefix"]

Weights = dict[str, torch.Tensor]


@pytest.fixture
def objective(tiny_folder):
    return objectives.build(tiny_config(tiny_folder))


def weights(learner: Learner) -> Weights:
    return {name: value.clone() for name, value in learner.weights()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(a: Weights, b: Weights) -> dict[str, float]:
    return {name: float((a[name].float() - b[name].float()).abs().max()) for name in a}


def gradient(learner: Learner, rollouts, objective) -> Weights:
    """Return the gradient of one update without taking the step (ZeRO stage 0)."""
    step = learner._engine.step
    learner._engine.step = lambda: None
    try:
        learner.update(rollouts, objective, LR)
        named = learner.model.named_parameters()
        return {n: p.grad.clone() for n, p in named if p.grad is not None}
    finally:
        learner._engine.step = step
        learner._engine.zero_grad()


def plain_logprobs(module, rollout: Rollout, banned, temperature: float) -> torch.Tensor:
    """Return a rollout's log-probs by transformers' own forward, positions inferred by it."""
    prompt = rollout.prompt
    ids = torch.tensor([prompt.expanded_ids + rollout.token_ids])
    image = module.config.image_token_id
    types = (ids == image).int()
    out = module(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=types,
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.grid_thw,
    )
    start = len(prompt.expanded_ids)
    logits = out.logits[0, start - 1 : -1]
    logits[:, list(banned)] += BAN_BIAS
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs.gather(-1, ids[0, start:, None])[:, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_the_forward_path_equals_transformers(request, tiny_folder, kind, layout, prompts):
    name = {"dense": "tiny_folder", "moe": "tiny_moe_folder"}[kind]
    opened = open_assets(request.getfixturevalue(name))
    rendered = PromptRenderer(opened, tiny_config(tiny_folder).data).render(make_samples())
    rollouts = make_rollouts(rendered)
    module = load_weights(opened, "float32")
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(module, r, opened.banned_ids, 0.7) for r in rollouts])
        out = Policy(module, opened, 0.7, layout)(rollouts).out
    assert out.logprobs_N.shape == expected.shape
    torch.testing.assert_close(out.logprobs_N, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_does_not_depend_on_micro_batches_or_order(build, prompts, objective, layout):
    rollouts = make_rollouts(prompts)
    whole = build("learner.micro_batch_tokens=100000", f"learner.layout={layout}")
    reference = gradient(whole, rollouts, objective)
    assert len(whole._micro_batches(rollouts)) == 1
    shuffled = [rollouts[i] for i in np.random.default_rng(3).permutation(len(rollouts))]
    for budget in (200, 150, 100):
        learner = build(f"learner.micro_batch_tokens={budget}", f"learner.layout={layout}")
        assert len(learner._micro_batches(shuffled)) > 1
        assert distance(gradient(learner, shuffled, objective), reference) < 1e-6
    padding = [
        replace(rollouts[0], is_filler=True),
        replace(rollouts[5], is_filler=True, advantage=9.0),
    ]
    assert distance(gradient(whole, rollouts + padding, objective), reference) < 1e-6
    fewer = gradient(whole, rollouts[1:], objective)
    assert distance(fewer, reference) > 1e-2  # the bound above has teeth


def test_both_layouts_give_the_same_gradient(build, prompts, objective):
    rollouts = make_rollouts(prompts)
    padded, packed = (build(f"learner.layout={name}") for name in ("padded", "shared_prefix"))
    reference = gradient(padded, rollouts, objective)
    assert distance(gradient(packed, rollouts, objective), reference) < 2e-6


def test_on_policy_update_is_reinforce(build, prompts, objective):
    """The gradient of the first mini-batch is the mean of means of A * grad log pi."""
    rollouts = [
        replace(rollout, old_logprobs=None, generator_logprobs=None)
        for rollout in make_rollouts(prompts)
    ]
    learner = build("algorithm.importance_cap=null")
    config = tiny_config(Path(learner.assets.path), "algorithm.importance_cap=null")
    ours = gradient(learner, rollouts, objectives.build(config))
    learner._engine.zero_grad()
    out = learner._policy(rollouts).out
    pieces = out.logprobs_N.split([len(rollout.token_ids) for rollout in rollouts])
    means = [p.mean() * rollout.advantage for p, rollout in zip(pieces, rollouts, strict=True)]
    (-torch.stack(means).mean()).backward()
    reinforce = {
        n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None
    }
    assert distance(ours, reinforce) < 1e-6
    for rollout, piece in zip(rollouts, pieces, strict=True):  # and its old log-probs are its own
        np.testing.assert_allclose(rollout.old_logprobs, piece.detach().numpy(), atol=1e-5)


def test_a_report_says_what_was_done(build, prompts, objective):
    rollouts = make_rollouts(prompts)
    learner = build()
    learner.fill_old_logprobs(rollouts)
    spare = replace(rollouts[0], is_filler=True)
    before = weights(learner)
    report = learner.update([*rollouts, spare], objective, LR)
    assert len(report.rollouts) == len(rollouts)
    assert {id(rollout) for rollout in report.rollouts} == {id(rollout) for rollout in rollouts}
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    for values_T in (
        report.log_ratio_T,
        report.gate_weight_T,
        report.grad_coefficient_T,
        report.entropy_T,
        report.logprobs_T,
    ):
        assert (values_T.shape, values_T.dtype) == ((tokens,), np.float32)
    np.testing.assert_allclose(report.log_ratio_T, 0, atol=1e-5)
    np.testing.assert_allclose(report.gate_weight_T, 1, atol=1e-5)
    np.testing.assert_allclose(report.grad_coefficient_T, 1, atol=2e-5)
    old_T = np.concatenate([rollout.old_logprobs for rollout in report.rollouts])
    np.testing.assert_allclose(report.logprobs_T, old_T, atol=1e-5)
    assert (report.entropy_T > 0).all()
    assert report.grad_norm > 0
    assert not report.skipped
    assert report.clamped == 0
    assert report.loss_centered == pytest.approx(0, abs=1e-5)
    assert not same(weights(learner), before)
    again = learner.update(rollouts, objective, LR)
    assert float(again.gate_weight_T.min()) < 0.99999  # now the ratios have moved


def test_a_mini_batch_of_fillers_changes_nothing(build, prompts, objective):
    learner = build()
    before = weights(learner)
    rollouts = [replace(make_rollouts(prompts)[0], is_filler=True)]
    report = learner.update(rollouts, objective, LR)
    assert report.rollouts == []
    assert report.log_ratio_T.shape == (0,)
    assert same(weights(learner), before)


def test_text_alone_leaves_the_vision_tower(build, renderer, objective):
    rollouts = make_rollouts(renderer.render([make_sample()]))
    learner = build()
    before = weights(learner)
    learner.update(rollouts, objective, LR)
    changes = moved(weights(learner), before)
    assert all(v == 0 for n, v in changes.items() if ".visual." in n)
    assert max(changes.values()) > LR / 2


def test_the_learning_rate_is_the_steps_own(build, prompts, objective):
    learner = build()
    before = weights(learner)
    learner.update(make_rollouts(prompts), objective, 0.0)
    assert same(weights(learner), before)
    learner.update(make_rollouts(prompts), objective, 1e-4)
    assert 0.5e-4 < max(moved(weights(learner), before).values()) < 1.5e-4


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_is_clipped(build, prompts, objective, stage, dtype):
    """Adam forgets the gradient's scale but for its epsilon, far above a norm of 1e-12."""
    options = (f"learner.zero_stage={stage}", f"model.dtype={dtype}", "learner.lr=1e-2")
    learner = build(*options, "learner.max_grad_norm=1e-12")
    before = weights(learner)
    report = learner.update(make_rollouts(prompts), objective, 1e-2)
    assert report.grad_norm > 1e-3  # the norm before clipping
    assert max(moved(weights(learner), before).values()) < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_all_stages_take_the_same_step(build, prompts, objective, stage):
    rollouts = make_rollouts(prompts)
    reference, learner = build(), build(f"learner.zero_stage={stage}")
    start = weights(reference)
    assert same(weights(learner), start)
    for _ in range(2):
        one = reference.update(rollouts, objective, LR)
        two = learner.update(rollouts, objective, LR)
        # stage 3's head goes through its module: other rounding, which Adam's first step enlarges
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4 if stage == 3 else 1e-5)
    expected, end = weights(reference), weights(learner)
    assert distance(expected, start) > 1e-3
    assert distance(end, expected) < (1e-5 if stage == 3 else 1e-6)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_saving_and_loading_is_exact(build, prompts, objective, stage, tmp_path):
    def update(learner: Learner, seed: int) -> None:
        learner.update(make_rollouts(prompts, seed), objective, LR)

    first = build(f"learner.zero_stage={stage}")
    for seed in (1, 2):
        update(first, seed)
    first.save(tmp_path)
    saved = weights(first)
    files = whole_weights(tmp_path / "learner", first.assets.family, torch.float32)
    assert same(dict(files), saved)  # without the learner
    for seed in (3, 4):
        update(first, seed)
    second = build(f"learner.zero_stage={stage}")
    second.load(tmp_path)
    assert same(weights(second), saved)
    for seed in (3, 4):
        update(second, seed)
    assert same(weights(second), weights(first))
    assert not same(weights(second), saved)


@pytest.mark.parametrize(
    ("stage", "dtype", "value"),
    [
        *((stage, dtype, float("nan")) for stage in STAGES for dtype in ("float32", "bfloat16")),
        (0, "float32", float("inf")),
        (2, "bfloat16", float("inf")),
    ],
)
def test_a_step_that_is_not_finite_is_skipped(build, prompts, objective, stage, dtype, value):
    def loss(inputs):
        return objective.loss(inputs)._replace(loss=(inputs.logprobs_T * value).sum())

    broken = replace(objective, loss=loss)
    options = (f"learner.zero_stage={stage}", f"model.dtype={dtype}")
    learner, untouched = build(*options), build(*options)
    before = weights(learner)
    for _ in range(2):
        report = learner.update(make_rollouts(prompts), broken, LR)
        assert report.skipped
        assert same(weights(learner), before)
    for each in (learner, untouched):  # and it leaves no trace in what follows
        assert not each.update(make_rollouts(prompts), objective, LR).skipped
    assert same(weights(learner), weights(untouched))
    assert not same(weights(learner), before)


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_trains(build, prompts, objective, stage):
    learner = build(f"learner.zero_stage={stage}", "model.dtype=bfloat16")
    before = weights(learner)
    for seed in range(2):
        report = learner.update(make_rollouts(prompts, seed), objective, 1e-2)
        assert np.isfinite([report.loss, report.grad_norm]).all()
        assert not report.skipped
    after = weights(learner)
    assert all(value.dtype is torch.bfloat16 for value in after.values())
    assert all(torch.isfinite(value).all() for value in after.values())
    assert sum(v > 0 for v in moved(after, before).values()) == len(after)


def test_small_steps_add_up_in_bfloat16(build, prompts, objective):
    """The optimizer keeps float32 weights: steps below bfloat16's resolution are not lost."""
    name = "model.language_model.norm.weight"  # ones: bfloat16's next number below is 0.996
    for stage in (0, 2):
        learner = build(f"learner.zero_stage={stage}", "model.dtype=bfloat16")
        assert weights(learner)[name].unique().tolist() == [1.0]
        learner.update(make_rollouts(prompts), objective, 5e-4)
        assert weights(learner)[name].unique().tolist() == [1.0]
        for _ in range(6):
            learner.update(make_rollouts(prompts), objective, 5e-4)
        assert 0.9961 > float(weights(learner)[name].min()) > 0.99


def tower_sizes(vocabulary: int) -> dict[str, int]:
    """Return the tiny model's parameters by component, layer by layer, by hand."""
    block = 2 * 2 * 96 + (3 * 96 * 96 + 3 * 96) + (96 * 96 + 96)
    block += (96 * 192 + 192) + (192 * 96 + 96)
    vision = (96 * 3 * 2 * 8 * 8 + 96) + 64 * 96 + 2 * block
    mlp = (384 * 384 + 384) + (384 * 128 + 128)
    merger = (2 * 96 + mlp) + (2 * 384 + mlp)  # the last one, and one for deepstack
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 2 * 32 + 3 * 128 * 512 + 2 * 128
    language = vocabulary * 128 + 2 * layer + 128
    return {"vision": vision, "merger": merger, "language": language}


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_frozen_vision_stays(build, prompts, objective, stage, assets, tmp_path):
    learner = build(f"learner.zero_stage={stage}", "model.freeze=[vision]")
    sizes = tower_sizes(len(assets.tokenizer))
    table = {name: (total, trained) for name, total, trained in trainable_rows(learner.model)}
    assert table == {
        "vision": (sizes["vision"], 0),
        "merger": (sizes["merger"], 0),
        "language": (sizes["language"], sizes["language"]),
        "all": (sum(sizes.values()), sizes["language"]),
    }
    before = weights(learner)
    learner.update(make_rollouts(prompts), objective, LR)
    changes = moved(weights(learner), before)
    assert all((v == 0) == (".visual." in n) for n, v in changes.items())
    learner.export(tmp_path / "out")


def test_the_merger_alone_can_be_frozen_and_the_tower_without_it(assets):
    module = load_weights(assets, "float32")
    sizes = tower_sizes(len(assets.tokenizer))
    for frozen, left in (
        (["merger"], {"vision", "language"}),
        (["language"], {"vision", "merger"}),
        (["vision", "language"], None),
        ([], {"vision", "merger", "language"}),
    ):
        if left is None:
            with pytest.raises(ConfigError, match="leaves nothing to train"):
                freeze(module, frozen)
            continue
        freeze(module, frozen)
        trained = {name: trained for name, _, trained in trainable_rows(module)}
        assert trained == {n: sizes[n] if n in left else 0 for n in sizes} | {
            "all": sum(sizes[n] for n in left)
        }


@pytest.mark.parametrize("stage", [0, 3])
def test_a_frozen_weight_that_changed_is_noticed(build, tmp_path, stage):
    learner = build(f"learner.zero_stage={stage}", "model.freeze=[vision]")
    weight = learner.model.model.visual.pos_embed.weight
    getattr(weight, "ds_tensor", weight.data).view(-1)[0] += 1e-6
    with pytest.raises(AssertionError, match="frozen weights changed"):
        learner.export(tmp_path / "out")


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_exported_folder_is_a_plain_one(
    build, prompts, objective, stage, dtype, tiny_folder, tmp_path
):
    learner = build(f"learner.zero_stage={stage}", f"model.dtype={dtype}")
    learner.update(make_rollouts(prompts), objective, LR)
    out = tmp_path / "out"
    learner.export(out)
    from transformers import AutoModelForImageTextToText

    loaded = AutoModelForImageTextToText.from_pretrained(out)
    assert loaded.dtype is DTYPES[dtype]
    assert same(dict(loaded.named_parameters()), weights(learner))
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    names = {path.name for path in tiny_folder.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    same_dtype = {"config.json"} if dtype == "float32" else set()
    for name in names - {"model.safetensors", "config.json"} | same_dtype:
        assert (out / name).read_bytes() == (tiny_folder / name).read_bytes(), name
    text = json.loads((out / "config.json").read_text())["text_config"]
    assert text.get("use_cache", True) is True, "generation from the exported folder must be fast"


@pytest.mark.parametrize("stage", [0, 3])
def test_a_mixture_of_experts_trains(build, tiny_moe_folder, tiny_folder, objective, stage):
    opened = open_assets(tiny_moe_folder)
    rendered = PromptRenderer(opened, tiny_config(tiny_folder).data).render(make_samples())
    learner = build(f"learner.zero_stage={stage}", of=opened)
    whole = get_z3_leaf_modules(learner.model)
    assert [type(module).__name__ for module in whole] == (
        ["Qwen3VLMoeTextSparseMoeBlock"] * 2 if stage == 3 else []
    )
    before = weights(learner)
    report = learner.update(make_rollouts(rendered), objective, LR)
    assert np.isfinite(report.grad_norm)
    changes = moved(weights(learner), before)
    assert all(v > 0 for n, v in changes.items() if "experts" in n or "gate" in n)


@pytest.mark.parametrize("choice", ["alternate", "all"])
def test_gradient_checkpointing_changes_nothing(build, prompts, objective, choice):
    rollouts = make_rollouts(prompts)
    plain, saving = build(), build(f"model.gradient_checkpointing={choice}")
    reference = gradient(plain, rollouts, objective)
    assert distance(gradient(saving, rollouts, objective), reference) < 1e-6
    flags = [layer.gradient_checkpointing for layer in saving.model.model.language_model.layers]
    assert flags == [True, choice == "all"]


def test_token_mean_weighs_tokens_alike(build, prompts):
    rollouts = make_rollouts(prompts)
    learner = build()
    with torch.no_grad():
        expected = -learner._policy(rollouts).out.logprobs_N.mean()
    report = learner.update(rollouts, sft.OBJECTIVE, LR)
    assert report.loss == pytest.approx(expected.item(), rel=1e-6)
