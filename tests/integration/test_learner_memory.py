"""The optimizer's state in host memory while the engine samples: not a bit of training changes."""

from __future__ import annotations

import pytest
import torch
from helpers import make_rollouts, make_samples, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.learner import engine
from sapo_vl.learner.engine import Learner
from sapo_vl.learner.optimizer import state_tensors
from sapo_vl.training.parity import check_weights

pytestmark = pytest.mark.slow

LR = 1e-3
BUCKET = 50_000
"""Elements of ZeRO-3's reduction buffer, which has half a thousand million by default."""


@pytest.fixture
def build(assets, tiny_folder, tmp_path):
    settings = tmp_path / "ds.json"
    settings.write_text(f'{{"zero_optimization": {{"reduce_bucket_size": {BUCKET}}}}}')
    learners = []

    def make(*overrides: str) -> Learner:
        config = tiny_config(tiny_folder, f"learner.deepspeed={settings}", *overrides)
        learners.append(Learner(config, assets))
        return learners[-1]

    yield make
    for learner in learners:
        learner.close()


def held(learner: Learner) -> int:
    """Return the bytes of the optimizer's state in its own memory."""
    storages = {t.untyped_storage().data_ptr(): t for t in state_tensors(learner._optimizer)}
    return sum(t.untyped_storage().nbytes() for t in storages.values())


@pytest.mark.parametrize(
    ("stage", "dtype", "per_parameter"),
    [
        (0, "float32", 8),  # Adam's moments
        (2, "bfloat16", 12),  # and float32 weights
        (3, "bfloat16", 14),  # and gradients
    ],
)
def test_sleeping_changes_no_bit(
    build, renderer, tiny_folder, tmp_path, stage, dtype, per_parameter
):
    objective = objectives.build(tiny_config(tiny_folder))
    prompts = renderer.render(make_samples())
    options = (f"learner.zero_stage={stage}", f"model.dtype={dtype}")
    awake, sleeper = build(*options), build(*options, "learner.offload_while_sampling=true")
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in sleeper.model.parameters())

    def both_update(first: Learner, second: Learner, seed: int) -> None:
        for learner in (first, second):
            learner.update(make_rollouts(prompts, seed), objective, LR)

    sleeper.sleep()  # as before the engine starts
    for seed in (1, 2):
        both_update(awake, sleeper, seed)
        size = held(sleeper)
        bucket = BUCKET * (4 if dtype == "float32" else 2) if stage == 3 else 0
        assert size == pytest.approx(per_parameter * parameters + bucket, rel=0.01)
        sleeper.sleep()
        assert held(sleeper) == 0
        sleeper.sleep()  # twice is once
        scored = [make_rollouts(prompts, 7) for _ in range(2)]
        for learner, rollouts in zip((awake, sleeper), scored, strict=True):
            learner.fill_old_logprobs(rollouts)
        for a, b in zip(*scored, strict=True):
            assert (a.old_logprobs == b.old_logprobs).all()
        for (name, a), (_, b) in zip(awake.weights(), sleeper.weights(), strict=True):
            assert torch.equal(a, b), name
        assert held(sleeper) == 0  # the weights alone were enough
    sleeper.save(tmp_path)
    assert held(sleeper) == size
    resumed = build(*options, "learner.offload_while_sampling=true")
    resumed.sleep()
    resumed.load(tmp_path)
    resumed.sleep()
    both_update(awake, resumed, 3)
    for (name, a), (_, b) in zip(awake.weights(), resumed.weights(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_frozen_base_leaves_with_it_and_comes_back_as_it_was(
    build, renderer, tiny_folder, tmp_path, stage
):
    """Its copy is made once; the adapters stay; all that reads weights has them back.

    In bfloat16: on a CPU float32 weights are mapped from their file, and can't be moved.
    """
    objective = objectives.build(tiny_config(tiny_folder))
    prompts = renderer.render(make_samples())
    options = ("model.lora.rank=8", f"learner.zero_stage={stage}", "model.dtype=bfloat16")
    awake, sleeper = build(*options), build(*options, "learner.offload_while_sampling=true")
    before = {name: tensor.clone() for name, tensor in frozen(sleeper).items()}
    whole = sum(t.nbytes for t in before.values())
    pieces = None
    for seed in (1, 2):
        for learner in (awake, sleeper):
            learner.update(make_rollouts(prompts, seed), objective, LR)
        sleeper.sleep()
        sleeper.sleep()  # twice is once
        assert sleeper.weights_away
        assert held(sleeper) == 0
        kept = [t for t in frozen(sleeper).values() if t.untyped_storage().nbytes()]
        assert kept == []
        assert sleeper._base.nbytes == pytest.approx(whole, rel=0.01)
        pieces = pieces or sleeper._base._pieces
        assert sleeper._base._pieces is pieces  # one copy for the whole run
        same(awake.adapter(), sleeper.adapter())
        assert sleeper.weights_away  # adapters need no base
        with pytest.raises(AssertionError, match="in host memory"):
            sleeper._engine(make_rollouts(prompts, 7))
        assert 0 < check_weights(tiny_config(tiny_folder), sleeper.model, 1) < 1  # adapters alone
        scored = [make_rollouts(prompts, 7) for _ in range(2)]
        for learner, rollouts in zip((awake, sleeper), scored, strict=True):
            learner.fill_old_logprobs(rollouts)
        for a, b in zip(*scored, strict=True):
            assert (a.old_logprobs == b.old_logprobs).all()
        assert not sleeper.weights_away
        assert held(sleeper) == 0  # log-probs don't need the optimizer
        assert all(torch.equal(t, before[name]) for name, t in frozen(sleeper).items())
        sleeper.sleep()
        same(awake.weights(), sleeper.weights())  # merged
        sleeper.sleep()
    sleeper.export(tmp_path / "out")  # compares the frozen weights' hash
    sleeper.sleep()
    sleeper.save(tmp_path)
    resumed = build(*options, "learner.offload_while_sampling=true")
    resumed.sleep()
    resumed.load(tmp_path)
    resumed.sleep()
    for learner in (awake, resumed):
        learner.update(make_rollouts(prompts, 3), objective, LR)
    same(awake.weights(), resumed.weights())


def frozen(learner: Learner) -> dict[str, torch.Tensor]:
    """Return the frozen weights by name, under ZeRO-3 their shards."""
    named = learner._policy.named_parameters()
    return {n: getattr(p, "ds_tensor", p.detach()) for n, p in named if not p.requires_grad}


def same(expected, found) -> None:
    for (name, a), (_, b) in zip(expected, found, strict=True):
        assert torch.equal(a, b), name


def test_without_the_option_sleep_does_nothing(build):
    learner = build("learner.zero_stage=2")
    size = held(learner)
    assert size > 0
    learner.sleep()
    assert held(learner) == size


def test_a_step_has_the_cores_that_its_options_say(build, renderer, tiny_folder, monkeypatch):
    seen = []
    real = engine.all_cores
    monkeypatch.setattr(
        engine, "all_cores", lambda options: seen.append(options.offload_optimizer) or real(options)
    )
    learner = build("learner.zero_stage=2", "learner.offload_optimizer=true")
    objective = objectives.build(tiny_config(tiny_folder))
    learner.update(make_rollouts(renderer.render(make_samples())), objective, LR)
    assert seen == [True]
