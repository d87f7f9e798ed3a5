"""A trainer's steps without weights: resampling, learning rates, and stopping between mini-batches.

The generator and the learner are fakes; sampler, rubric, run folder and checkpoints are real.
"""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from types import SimpleNamespace

import fake_training
import pytest
from fake_training import COUNT, sampled, steps

from sapo_vl import train
from sapo_vl.config.sections import LearnerConfig
from sapo_vl.evaluation.heldout import Accuracy
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.training import checkpoint, trainer
from sapo_vl.training.prompt_sampler import shuffled_indices
from sapo_vl.training.receipt import DeliveryError, Receipt
from sapo_vl.training.trainer import Step, learning_rate


def test_groups_without_a_gradient_are_resampled(build):
    first = shuffled_indices(COUNT, 0, 16, 8)
    dull = set(first[:3])  # all right; every other record is mixed
    made = build(lambda i: 2 if i in dull else 1, "rollout.max_resample_rounds=3")
    made.state.step, made.state.cursor = 2, 16
    batch, totals = sampled(made)
    calls = made.generator.calls
    assert [len(call) for call in calls] == [8, 3]
    ids = [group.prompt.sample.id for group in batch.groups]
    assert ids[3:] == [f"r{i}" for i in first[3:]]
    assert ids[:3] == [f"r{i}" for i in calls[1]]
    assert not dull & set(calls[1])
    assert batch.num_mini_batches == 4
    assert (totals["resample_drawn"], totals["resample_kept"]) == (3, 3)
    # accuracy is that of what was drawn first: 3 groups of 2 right, 5 of 1
    assert (totals["correct"], totals["responses"], totals["zero_std"]) == (11, 16, 3)


def test_resampling_is_bounded_and_never_draws_a_record_twice(build):
    made = build(lambda i: 0, "rollout.max_resample_rounds=6")
    batch, totals = sampled(made)
    calls = made.generator.calls
    assert [len(call) for call in calls] == [8] * 7
    assert len({i for call in calls for i in call}) == 56  # of 64 records
    assert (totals["resample_drawn"], totals["resample_kept"]) == (48, 0)
    assert not any(group.has_gradient for group in batch.groups)


def test_resampling_ends_where_no_record_is_left(build):
    made = build(lambda i: 0, "rollout.max_resample_rounds=99")
    _, totals = sampled(made)
    assert [len(call) for call in made.generator.calls] == [8] * 8
    assert totals["resample_drawn"] == 56


def test_without_rounds_nothing_is_resampled(build):
    made = build(lambda i: 0, "rollout.max_resample_rounds=0")
    _, totals = sampled(made)
    assert len(made.generator.calls) == 1
    assert "resample_drawn" not in totals


def test_dapo_resamples_by_itself(build):
    made = build(lambda i: 0, "objective=dapo")
    sampled(made)
    assert len(made.generator.calls) == 1 + 3


def test_resampled_groups_stay_in_their_mini_batch(build):
    """With data.ratio a redraw belongs to the mini-batch of the group that it replaces."""
    first = []

    def right(i: int) -> int:
        if len(first) < 8:
            first.append(i)
        return 0 if i in first[:2] else 1

    made = build(right, "rollout.max_resample_rounds=1", "data.ratio={sum: 1}")
    batch, _ = sampled(made)
    assert [group.mini_batch for group in batch.groups] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(group.has_gradient for group in batch.groups)


def test_old_logprobs_are_of_the_policy_that_starts_the_step(build):
    made = build(lambda i: 1)
    batch, _ = sampled(made)
    made.fill_old_logprobs(batch)
    first, *later = batch.mini_batches()
    assert {rollout.old_logprobs is None for rollout in first} == {True}  # their own forward's
    for rollout in (rollout for rollouts in later for rollout in rollouts):
        assert rollout.old_logprobs.tolist() == pytest.approx([-0.999, -1.999])


def test_a_sampler_that_disagrees_is_noticed_before_anything_is_trained_on(build):
    made = build(lambda i: 0, "generator.parity_stop=0.0009")  # not even a gradient is needed
    batch, _ = sampled(made)
    with pytest.raises(trainer.parity.ParityError, match=r"step 1: .*generator\.parity_stop"):
        made.fill_old_logprobs(batch)
    assert made.learner.updates == []


OPTIONS = ("rollout.steps=4", "checkpoint.every=1", "run.rollouts_every=1")


@pytest.mark.parametrize("signal_at", [5, 6, 7, 8])  # after each mini-batch of the second step
def test_a_step_interrupted_between_mini_batches_goes_on_as_if_nothing_had_been(
    build, tmp_path, signal_at
):
    def right(i: int) -> int:
        return i % 3 and 1  # a third of the groups has no gradient

    whole = build(right, *OPTIONS, name="whole")
    steps(whole, 3)
    first = build(right, *OPTIONS, name="cut", signal_at=signal_at)
    with pytest.raises(RunInterrupted) as caught:
        steps(first, 3)
    assert caught.value.signum == signal.SIGTERM
    newest = checkpoint.latest(first.checkpoints)
    assert newest.name == {5: "step_000001+1", 6: "step_000001+2", 7: "step_000001+3"}.get(
        signal_at, "step_000002"
    )
    second = build(right, *OPTIONS, name="cut")
    second.state = checkpoint.load(newest, second.learner)
    second.version = second.state.step
    steps(second, 3)
    assert len(whole.learner.updates) == 12
    assert second.learner.updates == whole.learner.updates
    # what the step had sampled is not sampled again
    assert first.generator.calls + second.generator.calls == whole.generator.calls
    assert first.generator.seeds + second.generator.seeds == whole.generator.seeds
    assert second.state == whole.state
    for step in (1, 2, 3):
        name = Path("rollouts") / f"step_{step:06d}.parquet"
        cut, reference = (store_rows(tmp_path / run / name) for run in ("cut", "whole"))
        assert cut == reference


def test_a_file_holds_the_tokens_of_the_updates_it_saw_and_no_others(build, tmp_path):
    made = build(lambda i: i % 3 and 1, *OPTIONS, "run.rollouts_every=2", name="run")
    steps(made, 2)
    files = sorted(path.name for path in (tmp_path / "run" / "rollouts").iterdir())
    assert files == ["step_000002.parquet"]
    rows = store_rows(tmp_path / "run" / "rollouts" / files[0])
    trained = {name for update in made.learner.updates[4:] for name, _, _ in update}
    assert 0 < len(trained) < len({row["id"] for row in rows})
    seen = []
    for row in rows:
        if row["id"] in trained:
            assert row["gate_weights"] == [1, 1]
            assert row["log_ratios"] == [0, 0]
            seen += row["entropies"]
        else:  # all of its group's responses got the same reward
            assert row["gate_weights"] is row["log_ratios"] is row["entropies"] is None
    numbers = [sum(2 for _ in update) for update in made.learner.updates[4:]]  # tokens by update
    assert sorted(seen) == [133 + i + j / 1024 for i, n in enumerate(numbers) for j in range(n)]


def store_rows(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def test_a_finished_step_leaves_no_trace_of_its_middle(build):
    made = build(lambda i: 1, *OPTIONS)
    steps(made, 1)
    state = made.state
    assert (state.step, state.mini_batch, state.cursor) == (1, 0, 8)
    assert state.batch is None
    assert (state.totals, state.stats) == ({}, [])
    assert checkpoint.latest(made.checkpoints).name == "step_000001"


def test_the_next_steps_prompts_are_rendered_while_a_step_is_learned_from(build):
    made = build(lambda i: 1, "rollout.steps=3")
    taken, take = [], made.sampler.prompts.take

    def recorded(indices):
        pending = made.sampler.prompts._pending
        taken.append(pending is not None and pending.indices == list(indices))
        return take(indices)

    made.sampler.prompts.take = recorded
    steps(made, 3)
    assert taken == [False, True, True]
    assert made.sampler.prompts._pending is None  # there is no fourth step


def test_a_step_has_its_learning_rate(build):
    made = build(lambda i: 1, "rollout.steps=6", "learner.lr=1", "learner.lr_warmup_steps=2")
    made.state.step = 1
    assert Step(made).lr == learning_rate(1, 6, made.config.learner) == 1.0


def test_learning_rate_of_rollout_steps():
    options = LearnerConfig(lr=1.0, lr_warmup_steps=2, final_lr=0.5)
    rates = [learning_rate(step, 6, options) for step in range(6)]
    # up over two steps, then down by 1/8 a step towards 0.5, which step 6 would have
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625])


def test_learning_rate_of_a_run_that_is_all_warm_up():
    options = LearnerConfig(lr=1.0, lr_warmup_steps=3)
    assert learning_rate(0, 1, options) == pytest.approx(1 / 3)
    assert learning_rate(0, 1, LearnerConfig(lr=1.0, lr_warmup_steps=0)) == 1.0


class Memory:
    """A GPU that holds the engine or the learner's state, never both."""

    def __init__(self) -> None:
        self.engine = self.state = True
        self.reloads = 0

    def check(self) -> None:
        assert not (self.engine and self.state), "out of memory"

    def learn(self) -> None:
        """The learner's state is needed, and comes back."""
        self.reloads += not self.state
        self.state = True
        self.check()


class SharingGenerator(fake_training.Generator):
    """Samples only while it has its memory."""

    memory: Memory

    def generate(self, requests):
        assert self.memory.engine, "generate() on a sleeping engine"
        self.memory.check()
        return super().generate(requests)

    def sleep(self) -> None:
        self.memory.engine = False

    def update_weights(self, weights, version=0) -> None:
        self.memory.engine = True
        self.memory.check()


class SharingLearner(fake_training.Learner):
    """Moves its state out in `sleep`, and back where it needs it."""

    memory: Memory

    def sleep(self) -> None:
        self.memory.state = False

    def update(self, *arguments):
        self.memory.learn()
        return super().update(*arguments)

    def save(self, directory: Path) -> None:
        self.memory.learn()
        super().save(directory)

    def load(self, directory: Path) -> None:
        self.memory.learn()
        super().load(directory)


def sharing(made, signal_at: int = 0):
    """Let a trainer's fakes share one GPU, as after the start of a run."""
    memory = Memory()
    made.generator = SharingGenerator(made.generator.right)
    made.engine = dataclasses.replace(made.engine, generator=made.generator)
    made.sampler._engine = made.engine
    made.learner = SharingLearner(made.run.stop, signal_at)
    made.generator.memory = made.learner.memory = memory
    made.learner.sleep()
    return made, memory


def test_the_learners_state_and_the_engine_take_turns(build, monkeypatch):
    """Through steps, checkpoints, a signal while sampling, and a resume."""
    options = (*OPTIONS, "learner.offload_while_sampling=true")
    made, memory = sharing(build(lambda i: 1, *options))
    monkeypatch.setattr(type(made), "evaluate", lambda self, name: self.memory.check())
    made.memory = memory
    made.restore()
    steps(made, 2)
    assert memory.reloads == 2 * 2  # a step's first update, and its checkpoint
    assert (memory.engine, memory.state) == (True, False)

    def interrupted(*_):
        raise RunInterrupted(signal.SIGTERM)

    made.generator.generate = interrupted
    checkpoint.latest(made.checkpoints).rename(made.checkpoints / "moved")
    with pytest.raises(RunInterrupted):
        steps(made, 3)
    assert memory.reloads == 5  # to be saved
    again, memory = sharing(build(lambda i: 1, *options))
    again.memory = memory
    again.restore()
    assert again.state.step == 2
    steps(again, 3)
    assert (memory.engine, memory.state) == (True, False)


class AdapterLearner(SharingLearner):
    """Moves its frozen weights out as well, which log-probs need."""

    def sleep(self) -> None:
        super().sleep()
        self.weights_away = True

    def fill_old_logprobs(self, rollouts) -> None:
        self.memory.learn()
        self.weights_away = False
        super().fill_old_logprobs(rollouts)

    def adapter(self):
        return iter(())


class LateDelivery(fake_training.Delivery):
    """Keeps the sampler's answer until the learner has its weights; refuses one version."""

    def __init__(self, refused: int) -> None:
        self.refused, self.asked, self.settled = refused, [], []

    @property
    def pending(self) -> bool:
        return len(self.asked) > len(self.settled)

    def ask(self, generator, learner, version):
        assert generator.memory.engine
        assert not self.pending
        self.asked.append(version)
        return None if learner.weights_away else self.settle(learner)

    def settle(self, learner):
        learner.fill_old_logprobs([])
        self.settled.append(self.asked[-1])
        if self.refused == self.asked[-1]:
            raise DeliveryError(f"step {self.refused}")
        return Receipt(self.asked[-1], 0.0, 0.0)


@pytest.fixture
def late(build, monkeypatch):
    """Return a function that makes a trainer whose learner's frozen weights come and go."""

    def make(*overrides: str, refused: int = -1, **options):
        keys = ("learner.offload_while_sampling=true", "model.lora.rank=8")
        made, memory = sharing(build(lambda i: 1, *OPTIONS, *keys, *overrides, **options))
        made.generator.update_adapter = made.generator.update_weights
        made.learner = AdapterLearner()
        made.learner.memory = memory
        made.delivery = LateDelivery(refused)
        made.learner.sleep()
        written = []
        monkeypatch.setattr(trainer, "evaluate", lambda *_: written.append("sampled") or FIGURES)
        monkeypatch.setattr(trainer, "in_training", lambda *_: {})
        monkeypatch.setattr(trainer, "write_json", lambda path, _: written.append(path.stem))
        made.writer = SimpleNamespace(write=written.append)
        return made, written

    return make


FIGURES = Accuracy(0.5, None, None, 1, 3, 0, {}, {})


def test_a_receipt_waits_for_the_learners_weights(late):
    """Each version is compared before it is trained on, and before its evaluation is written."""
    made, written = late("checkpoint.every=100")
    made.restore()
    assert (made.delivery.settled, made.delivery.pending) == ([0], True)  # sent again after it
    assert [w for w in written if isinstance(w, str)] == ["sampled", "before"]
    assert made.receipt.version == 0
    assert made.generator.memory.engine
    with made.step() as step:
        train.train_step(made, step)
    assert made.delivery.settled == [0, 0]
    assert made.delivery.asked == [0, 0, 1]
    assert made.receipt.version == 0  # of the rollouts that this step was trained on
    assert written[-1]["receipt/version"] == 0
    made.settle_receipt()
    assert made.receipt.version == 1
    assert not made.generator.memory.engine  # it made room
    made.settle_receipt()  # once is enough
    assert made.delivery.settled == [0, 0, 1]


def test_a_late_receipt_that_is_refused_stops_the_run_before_its_rollouts_are_trained_on(late):
    made, _ = late(refused=1)
    made.restore()
    with pytest.raises(DeliveryError, match="step 1"):
        steps(made, 3)
    assert len(made.learner.updates) == 4  # those of the first step
    assert made.receipt.version == 0


def test_a_late_receipt_that_is_refused_leaves_no_figures(late):
    made, written = late(refused=0)
    with pytest.raises(DeliveryError):
        made.restore()
    assert written == ["sampled"]


def test_a_checkpoint_is_written_whatever_its_receipt_says(late):
    """Weights that didn't arrive are no fault of the learner's state."""
    made, _ = late("checkpoint.every=1", refused=1)
    made.restore()
    with pytest.raises(DeliveryError):
        steps(made, 3)
    assert checkpoint.latest(made.checkpoints).name == "step_000001"


def test_without_the_option_nothing_takes_turns(build):
    """A run that doesn't offload must not put its engine to sleep for a checkpoint."""
    made = build(lambda i: 1, *OPTIONS)
    sleeps = []
    made.generator.sleep = lambda: sleeps.append(len(made.learner.updates))
    steps(made, 2)
    assert sleeps == [0, 4]  # at the start of each step's updates
