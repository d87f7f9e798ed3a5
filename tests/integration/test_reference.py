"""The reference policy of the KL penalty: where its weights come from, and that they stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import distance, make_rollouts, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.learner.engine import Learner
from sapo_vl.model import lora

pytestmark = pytest.mark.slow

LR = 1e-2


def objective(*overrides: str):
    return objectives.build(tiny_config(Path("unused"), *overrides))


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.weights()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def reference_of(learner: Learner, prompts) -> np.ndarray:
    """Return the reference's log-probs of the rollouts of seed 5, in two mini-batches."""
    rollouts = make_rollouts(prompts, seed=5)
    learner.fill_reference_logprobs([rollouts[:8], rollouts[8:]])
    return np.concatenate([rollout.reference_logprobs for rollout in rollouts])


def policy_of(learner: Learner, prompts) -> np.ndarray:
    """Return the policy's own, in the same mini-batches."""
    rollouts = make_rollouts(prompts, seed=5)
    for part in (rollouts[:8], rollouts[8:]):
        learner.fill_old_logprobs(part)
    return np.concatenate([rollout.old_logprobs for rollout in rollouts])


FORMS = {
    "0": ("learner.zero_stage=0",),
    "1": ("learner.zero_stage=1",),
    "2, bfloat16": ("learner.zero_stage=2", "model.dtype=bfloat16"),
    "3": ("learner.zero_stage=3",),
    "adapters, 3": ("model.lora.rank=8", "learner.zero_stage=3"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_is_the_start_and_leaves_no_trace(build, prompts, form, tmp_path):
    """After updates it gives the start's log-probs; the policy trains as if there were none.

    With adapters the start is the base alone. A learner that loads a checkpoint has it from the
    model's folder: the same bits.
    """
    learner, plain = build(*FORMS[form]), build(*FORMS[form])
    start = policy_of(plain, prompts)
    digest = learner.keep_reference()
    assert np.array_equal(reference_of(learner, prompts), start)
    for seed in (1, 2):
        for each in (learner, plain):
            each.update(make_rollouts(prompts, seed), objective(), LR)
        assert np.array_equal(reference_of(learner, prompts), start)
    assert same(weights(learner), weights(plain))
    now = policy_of(learner, prompts)
    assert np.abs(now - start).max() > 1e-2
    assert np.array_equal(now, policy_of(plain, prompts))
    learner.save(tmp_path)
    again = build(*FORMS[form])
    assert again.keep_reference() == digest
    again.load(tmp_path)
    assert np.array_equal(reference_of(again, prompts), start)
    for each in (again, plain):
        each.update(make_rollouts(prompts, 3), objective(), LR)
    assert same(weights(again), weights(plain))


def test_new_adapters_have_the_base_as_their_reference(build, prompts):
    base, learner = build(), build("model.lora.rank=8")
    learner.keep_reference()
    learner.update(make_rollouts(prompts), objective(), LR)
    found = reference_of(learner, prompts)
    np.testing.assert_allclose(found, policy_of(base, prompts), atol=1e-5, rtol=0)
    assert np.abs(policy_of(learner, prompts) - found).max() > 1e-2


def test_adapters_that_go_on_have_their_own_start(build, prompts, assets, tmp_path):
    """From a warm-up or model.lora.path: the reference is base and adapter, not the base alone."""
    first = build("model.lora.rank=8")
    first.update(make_rollouts(prompts), objective(), LR)
    lora.write_adapter(tmp_path / "a", first.adapter(), lora.settings_of(first.model, assets.path))
    start = policy_of(first, prompts)
    second = build("model.lora.rank=8", f"model.lora.path={tmp_path / 'a'}")
    anew = build("model.lora.rank=8")
    assert second.keep_reference() != anew.keep_reference()  # the digest covers that adapter
    second.update(make_rollouts(prompts, 1), objective(), LR)
    assert np.array_equal(reference_of(second, prompts), start)


@pytest.mark.parametrize("layout", ["padded", "shared_prefix"])
def test_the_gradient_goes_through_the_fused_loss(build, prompts, layout):
    """Chunk by chunk, with recomputed layers, it is that of logits which autograd has seen whole.

    By hand: kl_coef * mean over responses of the mean over tokens of (pi - reference) grad log pi.
    """
    keys = (f"learner.layout={layout}", "algorithm.importance_cap=null", "algorithm.kl_coef=0.5")
    learner = build(*keys, "model.gradient_checkpointing=all", "learner.micro_batch_tokens=200")
    rollouts = [
        replace(rollout, advantage=0.0, old_logprobs=None) for rollout in make_rollouts(prompts)
    ]
    random = np.random.default_rng(0)
    for rollout in rollouts:
        rollout.reference_logprobs = random.normal(-5, 0.5, len(rollout.token_ids)).astype("f4")
    step, gradients = learner._engine.step, []

    def keep() -> None:
        named = learner.model.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        learner._engine.zero_grad()

    learner._engine.step = keep
    report = learner.update(rollouts, objective(*keys), LR)
    for rollout in rollouts:
        rollout.old_logprobs = None
    learner.update(rollouts, replace(objective(*keys), by_token=False), LR)
    learner._engine.step = step
    out = learner._policy(rollouts).out.logprobs_N
    pieces = out.split([len(rollout.token_ids) for rollout in rollouts])
    total = sum(
        ((piece.detach() - torch.from_numpy(rollout.reference_logprobs)) * piece).mean()
        for piece, rollout in zip(pieces, rollouts, strict=True)
    )
    (0.5 / len(rollouts) * total).backward()
    named = learner.model.named_parameters()
    expected = {n: p.grad.clone() for n, p in named if p.grad is not None}
    for gradient in gradients:
        assert distance(gradient, expected) < 1e-5
    d = np.concatenate([r.reference_logprobs for r in report.rollouts]) - report.logprobs_T
    np.testing.assert_allclose(report.reference_kl_T, np.exp(d) - d - 1, rtol=1e-3, atol=1e-5)
    assert report.penalty == pytest.approx(report.loss, rel=1e-6)  # the advantages are 0
    assert report.penalty > 0


def test_a_penalty_keeps_the_policy_near(build, prompts):
    """The same updates with and without it; its own estimate says so, too."""
    far = {}
    for kl_coef in (0.0, 10.0):
        learner = build(f"algorithm.kl_coef={kl_coef}")
        learner.keep_reference()
        start = reference_of(learner, prompts)
        found = []
        for _ in range(6):
            rollouts = make_rollouts(prompts, 1)
            for rollout in rollouts:
                rollout.old_logprobs = rollout.generator_logprobs = None
            learner.fill_reference_logprobs([rollouts])
            keys = (f"algorithm.kl_coef={kl_coef}", "algorithm.importance_cap=null")
            found.append(learner.update(rollouts, objective(*keys), 1e-3).reference_kl_T)
        far[kl_coef] = np.abs(policy_of(learner, prompts) - start).mean()
        assert [len(kl_T) > 0 for kl_T in found] == [kl_coef > 0] * 6
    assert found[0].max() < 1e-9  # the first update is at the reference
    assert found[-1].mean() > 1e-4
    assert far[10.0] < 0.8 * far[0.0]
