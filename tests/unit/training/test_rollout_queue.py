"""Batches sampled ahead: which weights sample which batch, and that no interruption changes it."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
from fake_training import steps
from helpers import bare_prompt

from sapo_vl.algorithm import staleness
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.errors import DataError
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.schema import Rollout, RolloutGroup, VersionSpan
from sapo_vl.training import checkpoint

OPTIONS = ("rollout.steps=6", "checkpoint.every=100", "run.rollouts_every=1")


def right(i: int) -> int:
    return i % 3 and 1  # a third of the groups has no gradient


def made_with(build, ahead: int, *, remote: bool, name: str, signal_at: int = 0):
    made = build(
        right, *OPTIONS, f"rollout.ahead={ahead}", name=name, signal_at=signal_at, remote=remote
    )
    made.sync()
    return made


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("ahead", "versions"),
    [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 0, 1, 2, 3, 4]), (2, [0, 0, 0, 1, 2, 3])],
)
def test_a_batch_is_sampled_by_the_weights_of_k_steps_before(build, remote, ahead, versions):
    fresh = made_with(build, 0, remote=False, name="fresh")
    steps(fresh, 6)
    made = made_with(build, ahead, remote=remote, name="ahead")
    steps(made, 6)
    assert made.generator.versions == versions
    # the same records with the same seeds, in the same order, whatever the lag
    assert made.generator.calls == fresh.generator.calls
    assert made.generator.seeds == fresh.generator.seeds

    def trained(learner):
        return [[(name, advantage) for name, advantage, _ in u] for u in learner.updates]

    assert trained(made.learner) == trained(fresh.learner)


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("signal_at", [1, 4, 6, 8, 21])  # of 24 updates
def test_an_interrupted_run_goes_on_with_the_batches_that_wait(build, ahead, remote, signal_at):
    whole = made_with(build, ahead, remote=remote, name="whole")
    steps(whole, 6)
    first = made_with(build, ahead, remote=remote, name="cut", signal_at=signal_at)
    with pytest.raises(RunInterrupted) as caught:
        steps(first, 6)
    assert caught.value.signum == signal.SIGTERM
    second = build(right, *OPTIONS, f"rollout.ahead={ahead}", name="cut", remote=remote)
    second.inputs.test_set.clear()
    second.state = checkpoint.load(checkpoint.latest(first.checkpoints), second.learner)
    second.queue.load_state_dict(second.state.ahead, second.inputs.renderer)
    second.state.ahead = []
    second.sync()
    steps(second, 6)
    assert second.learner.updates == whole.learner.updates
    # nothing is sampled twice, nor by other weights
    assert first.generator.calls + second.generator.calls == whole.generator.calls
    assert first.generator.versions + second.generator.versions == whole.generator.versions
    assert first.generator.seeds + second.generator.seeds == whole.generator.seeds


def test_sampling_goes_on_while_the_learner_trains(build):
    made = made_with(build, 1, remote=True, name="run")
    trained, generate = threading.Event(), made.generator.generate

    def slow(requests):
        if made.generator.calls:  # the second batch is not done before the learner's first update
            assert trained.wait(timeout=20)
        return generate(requests)

    made.generator.generate = slow
    update = made.learner.update

    def updated(*arguments):
        trained.set()
        return update(*arguments)

    made.learner.update = updated
    steps(made, 2)
    made.queue.wait()
    assert made.generator.versions == [0, 0, 1, 2]  # the last while step 2 was recorded


def test_a_checkpoint_leaves_out_what_its_own_weights_are_sampling(build):
    whole = made_with(build, 1, remote=True, name="whole")
    steps(whole, 6)
    first = made_with(build, 1, remote=True, name="cut")
    saved, generate, save = threading.Event(), first.generator.generate, first.save

    def slow(requests):
        if len(first.generator.calls) == 2:  # the batch of step 3, by the weights of step 1
            assert saved.wait(timeout=20), "the checkpoint waits for it"
        return generate(requests)

    def saving():
        path = save()
        saved.set()
        return path

    first.generator.generate, first.save = slow, saving
    first.config.checkpoint.every = 1
    steps(first, 1)
    first.queue.wait()
    second = build(right, *OPTIONS, "rollout.ahead=1", name="cut", remote=True)
    second.inputs.test_set.clear()
    second.state = checkpoint.load(checkpoint.latest(first.checkpoints), second.learner)
    assert [saved["step"] for saved in second.state.ahead] == [1]
    second.queue.load_state_dict(second.state.ahead, second.inputs.renderer)
    second.sync()
    steps(second, 6)
    assert second.learner.updates == whole.learner.updates
    assert second.generator.versions == [1, 2, 3, 4]
    assert second.generator.seeds == whole.generator.seeds[2:]


def test_an_error_of_the_sampler_ends_the_run_where_its_batch_is_needed(build):
    made = made_with(build, 1, remote=True, name="run")
    generate = made.generator.generate

    def failing(requests):
        if len(made.generator.calls) == 2:
            raise DataError("http://127.0.0.1:1: gone")
        return generate(requests)

    made.generator.generate = failing
    with pytest.raises(DataError, match="gone"):
        steps(made, 6)
    assert made.state.step == 1


def test_the_gate_takes_the_sampler_for_pi_old(build):
    made = build(right, *OPTIONS, "rollout.ahead=1", "algorithm.staleness=gate", name="gate")
    made.sync()
    assert made.objective.importance_cap is None
    steps(made, 3)
    # the fake learner's own log-probs are 0.001 and more above the sampler's
    assert {p for update in made.learner.updates for *_, old in update for p in old} == {-1.0, -2.0}


def test_statistics_by_age():
    mu, old = np.array([-1, -2, -3], np.float32), np.array([-1, -2.5, -2.5], np.float32)
    rollout = Rollout(bare_prompt(), [1, 2, 3])
    rollout.generator_logprobs, rollout.old_logprobs = mu, old
    rollout.versions = (VersionSpan(3, 0, 1), VersionSpan(4, 1, 3))
    group = RolloutGroup(rollout.prompt, [rollout])
    row = staleness.by_age([staleness.age_sums([group], 5, compared=True)] * 2)
    assert row["staleness/age"] == pytest.approx((2 + 1 + 1) / 3)
    assert row["staleness/share_1"] == pytest.approx(2 / 3)
    assert row["staleness/mean_abs_1"] == pytest.approx(0.5)
    assert row["staleness/mean_abs_2"] == 0.0
    # d = 0.5 and -0.5: exp(-d) - 1 + d
    assert row["staleness/kl_1"] == pytest.approx((np.exp(-0.5) + np.exp(0.5) - 2) / 2)
    alone = staleness.by_age([staleness.age_sums([group], 5, compared=False)])
    assert set(alone) == {"staleness/age", "staleness/share_1", "staleness/share_2"}

    report = UpdateReport(
        [rollout],
        gate_weight_T=np.array([1, 0.5, 0.7], np.float32),
        log_ratio_T=np.array([0, 1, 30], np.float32),
    )
    stats = staleness.gate_by_age(report, 5)
    assert stats["gate/mean_age_2"] == 1.0
    assert stats["gate/mean_age_1"] == pytest.approx(0.6)
    assert stats["ratio/kl_age_2"] == 0.0
    assert stats["ratio/kl_age_1"] == pytest.approx((np.e - 2 + np.exp(20) - 21) / 2)
