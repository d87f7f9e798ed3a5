"""A trainer's steps without weights: resampling, learning rates, and stopping between mini-batches.

The generator and the learner are fakes; sampler, rubric, run folder and checkpoints are real.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import bare_prompt, make_sample

from sapo_vl import train
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import LearnerConfig, load
from sapo_vl.data import store
from sapo_vl.errors import DataError
from sapo_vl.generator.sampling import problem_seed
from sapo_vl.model.prompts import Rendered
from sapo_vl.model.usable_samples import UsableSamples
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.runs.files import write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.schema import Outcome, Reward, Rollout, Verdict
from sapo_vl.training import checkpoint, trainer
from sapo_vl.training.prompt_sampler import PromptSampler, shuffled_indices
from sapo_vl.training.setup import RunInputs
from sapo_vl.training.trainer import Step, Trainer, learning_rate

COUNT = 64


class Renderer:
    """Prompts of three tokens, whatever the sample."""

    def __init__(self) -> None:
        self.broken: set[str] = set()  # ids of records that can't be rendered

    def render(self, samples) -> list:
        """Return a prompt per sample."""
        return [bare_prompt(name=sample.id) for sample in samples]

    def render_usable(self, samples) -> Rendered:
        """Return a prompt per sample that is not broken."""
        faults = {
            i: DataError(f"record {sample.id}: cut off")
            for i, sample in enumerate(samples)
            if sample.id in self.broken
        }
        return Rendered(self.render([s for s in samples if s.id not in self.broken]), faults)


class Generator:
    """Answers as often right as `right(record number)` says, and keeps what it was asked."""

    def __init__(self, right) -> None:
        self.right, self.calls, self.seeds = right, [], []

    def generate(self, prompts, params, seeds) -> list[list[Rollout]]:
        """Return two rollouts per prompt, the right ones first."""
        numbers = [int(prompt.sample.id[1:]) for prompt in prompts]
        self.calls.append(numbers)
        self.seeds.append(list(seeds))
        return [
            [self._one(prompt, i < self.right(number)) for i in range(params.n)]
            for prompt, number in zip(prompts, numbers, strict=True)
        ]

    def _one(self, prompt, right: bool) -> Rollout:
        text = "\\boxed{7}" if right else "\\boxed{8}"
        logprobs = np.array([-1.0, -2.0], np.float32)
        return Rollout(prompt, [1, 2], text, generator_logprobs=logprobs)

    def update_weights(self, weights) -> None:
        """Take nothing."""

    def sleep(self) -> None:
        """Hold nothing."""


class Learner:
    """Counts its updates; `signal_at` sends a stop signal inside of that update."""

    model = None

    def __init__(self, stop=None, signal_at: int = 0) -> None:
        self.updates: list[list[tuple[str, float, list[float]]]] = []
        self._stop, self._signal_at = stop, signal_at

    def fill_old_logprobs(self, rollouts) -> None:
        """Disagree with the sampler by 0.001 per update so far."""
        for rollout in rollouts:
            rollout.old_logprobs = rollout.generator_logprobs + 0.001 * (1 + len(self.updates))

    def update(self, rollouts, objective, lr) -> UpdateReport:
        """Keep what was trained on."""
        for rollout in rollouts:
            if rollout.old_logprobs is None:
                rollout.old_logprobs = rollout.generator_logprobs
        self.updates.append(
            [
                (r.prompt.sample.id, r.advantage, r.old_logprobs.tolist())
                for r in rollouts
                if not r.is_filler
            ]
        )
        if len(self.updates) == self._signal_at:
            self._stop._handle(signal.SIGTERM, None)
        trained = [r for r in rollouts if not r.is_filler]
        tokens = sum(len(r.token_ids) for r in trained)
        ones = np.ones(tokens, np.float32)
        return UpdateReport(
            trained,
            loss=float(len(self.updates)),
            grad_norm=1.0,
            log_ratio_T=0 * ones,
            gate_weight_T=ones,
            grad_coefficient_T=ones,
            entropy_T=ones,
            logprobs_T=-ones,
        )

    def weights(self):
        """Return nothing to sync."""
        return iter(())

    def save(self, directory: Path) -> None:
        """Write the updates so far."""
        (directory / "updates.json").write_text(json.dumps(self.updates))

    def load(self, directory: Path) -> None:
        """Read them again."""
        saved = json.loads((directory / "updates.json").read_text())
        self.updates = [[tuple(entry) for entry in update] for update in saved]


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> UsableSamples:
    path = tmp_path_factory.mktemp("records") / "data"
    store.write(path, [make_sample(name=f"r{i}") for i in range(COUNT)])
    return UsableSamples(store.load(path, "train"), range(COUNT))


@pytest.fixture
def build(records, tmp_path, monkeypatch):
    """Return a function that builds a trainer whose record i has right(i) right responses of 2."""

    def make(
        right, *overrides: str, name: str = "run", signal_at: int = 0, records=records
    ) -> Trainer:
        monkeypatch.setattr(trainer, "Learner", lambda config, assets: Learner())
        monkeypatch.setattr(trainer, "trainable_rows", lambda model: [])
        resume = (tmp_path / name).exists()
        config = load(
            None,
            [
                f"run.dir={tmp_path / name}",
                "rollout.prompts=8",
                "rollout.group_size=2",
                "rollout.max_new_tokens=16",
                "algorithm.num_mini_batches=4",
                "rewards=[{fn: boxed}]",
                *overrides,
            ],
        )
        run = Run(config, resume=resume)
        rubric = Rubric.from_terms([("boxed", 1.0)])
        sampler = PromptSampler(config, records)
        inputs = RunInputs(None, Renderer(), rubric, records, [], sampler, {})
        made = Trainer(run, inputs, None, None, Generator(right))
        made.learner = Learner(run.stop, signal_at)
        return made

    return make


def test_groups_without_a_gradient_are_resampled(build):
    first = shuffled_indices(COUNT, 0, 16, 8)
    dull = set(first[:3])  # all right; every other record is mixed
    made = build(lambda i: 2 if i in dull else 1, "rollout.max_resample_rounds=3")
    made.state.step, made.state.cursor = 2, 16
    batch, totals = made.sample_rollouts()
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
    batch, totals = made.sample_rollouts()
    calls = made.generator.calls
    assert [len(call) for call in calls] == [8] * 7
    assert len({i for call in calls for i in call}) == 56  # of 64 records
    assert (totals["resample_drawn"], totals["resample_kept"]) == (48, 0)
    assert not any(group.has_gradient for group in batch.groups)


def test_resampling_ends_where_no_record_is_left(build):
    made = build(lambda i: 0, "rollout.max_resample_rounds=99")
    _, totals = made.sample_rollouts()
    assert [len(call) for call in made.generator.calls] == [8] * 8
    assert totals["resample_drawn"] == 56


def test_without_rounds_nothing_is_resampled(build):
    made = build(lambda i: 0, "rollout.max_resample_rounds=0")
    _, totals = made.sample_rollouts()
    assert len(made.generator.calls) == 1
    assert "resample_drawn" not in totals


def test_dapo_resamples_by_itself(build):
    made = build(lambda i: 0, "objective=dapo")
    made.sample_rollouts()
    assert len(made.generator.calls) == 1 + 3


def test_resampled_groups_stay_in_their_mini_batch(build):
    """With data.ratio a redraw belongs to the mini-batch of the group that it replaces."""
    first = []

    def right(i: int) -> int:
        if len(first) < 8:
            first.append(i)
        return 0 if i in first[:2] else 1

    made = build(right, "rollout.max_resample_rounds=1", "data.ratio={sum: 1}")
    batch, _ = made.sample_rollouts()
    assert [group.mini_batch for group in batch.groups] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(group.has_gradient for group in batch.groups)


def test_old_logprobs_are_of_the_policy_that_starts_the_step(build):
    made = build(lambda i: 1)
    batch, _ = made.sample_rollouts()
    made.fill_old_logprobs(batch)
    first, *later = batch.mini_batches()
    assert {rollout.old_logprobs is None for rollout in first} == {True}  # their own forward's
    for rollout in (rollout for rollouts in later for rollout in rollouts):
        assert rollout.old_logprobs.tolist() == pytest.approx([-0.999, -1.999])


def test_a_sampler_that_disagrees_is_noticed_before_anything_is_trained_on(build):
    made = build(lambda i: 0, "generator.parity_mean=0.0009")  # not even a gradient is needed
    batch, _ = made.sample_rollouts()
    with pytest.raises(trainer.monitor.ParityError, match=r"step 1: .*generator\.parity_mean"):
        made.fill_old_logprobs(batch)
    assert made.learner.updates == []


def steps(made: Trainer, count: int) -> None:
    """Take training steps as train_loop does, without the evaluation of a run's start."""
    while made.state.step < count:
        with made.step() as step:
            train.train_step(made, step)


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


def test_a_record_that_cannot_be_rendered_is_replaced_and_said_once(build, capsys):
    first = shuffled_indices(COUNT, 0, 0, 8)
    made = build(lambda i: 1)
    made.inputs.renderer.broken = {f"r{first[2]}", f"r{first[5]}"}
    batch, totals = made.sample_rollouts()
    ids = [group.prompt.sample.id for group in batch.groups]
    assert ids[:6] == [f"r{i}" for n, i in enumerate(first) if n not in (2, 5)]
    assert len(set(ids)) == 8
    assert not set(ids) & made.inputs.renderer.broken
    assert totals["responses"] == 16
    printed = capsys.readouterr().out
    assert printed.count("cut off") == 2
    assert f"record r{first[2]}" in printed
    made.sample_rollouts()
    assert capsys.readouterr().out == ""
    again = build(lambda i: 1, name="other")
    again.inputs.renderer.broken = made.inputs.renderer.broken
    assert [g.prompt.sample.id for g in again.sample_rollouts()[0].groups] == ids


def test_replacements_may_be_faulty_too_and_keep_their_mini_batch(build):
    made = build(lambda i: 1, "data.ratio={sum: 1}")
    drawn = [draw.index for draw in made.inputs.prompt_sampler.step(0, 0, 0, 1)]
    rest = [i for i in range(COUNT) if i not in drawn]
    made.inputs.renderer.broken = {f"r{i}" for i in [drawn[0], *rest[:-1]]}
    batch, _ = made.sample_rollouts()
    assert sorted(g.mini_batch for g in batch.groups) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.groups[-1].prompt.sample.id == f"r{rest[-1]}"


def test_a_step_without_any_usable_record_says_so(build):
    made = build(lambda i: 1)
    made.inputs.renderer.broken = {f"r{i}" for i in range(COUNT)}
    with pytest.raises(DataError, match="step 1: none of its 64 records"):
        made.sample_rollouts()


def test_a_record_drawn_twice_in_a_step_gets_other_responses(build, records):
    made = build(lambda i: 1, records=records.subset(range(3)))
    made.sample_rollouts()
    (seeds,), (drawn,) = made.generator.seeds, made.generator.calls
    assert sorted(drawn.count(i) for i in range(3)) in ([2, 3, 3], [2, 2, 4])
    assert len(set(seeds)) == 8
    firsts = {i: drawn.index(i) for i in range(3)}
    for i, position in firsts.items():  # the first draw's seed is that of a record drawn once
        assert seeds[position] == problem_seed(0, f"0:r{i}")


def evaluations(made: Trainer, monkeypatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(made, "evaluate", names.append)
    return names


@pytest.mark.parametrize(
    ("step", "done", "expected"),
    [
        (2, False, ["step_000002"]),  # cut off: made up
        (2, True, []),
        (3, False, []),  # none was due
        (4, False, []),  # the last step's is `after`
    ],
)
def test_an_evaluation_that_a_kill_cut_off_is_made_up(build, monkeypatch, step, done, expected):
    keys = ("rollout.steps=4", "evaluation.every=2", "checkpoint.every=1")
    first = build(lambda i: 1, *keys)
    first.state.step = step
    checkpoint.save(first.checkpoints, first.learner, first.state, 2)
    write_json(first.run.dir / "eval" / "before.json", {"step": 0})
    if done:
        write_json(first.run.dir / "eval" / f"step_{step:06d}.json", {"step": step})
    made = build(lambda i: 1, *keys)
    names = evaluations(made, monkeypatch)
    made.restore()
    assert names == expected


def test_in_the_middle_of_a_step_the_weights_are_no_longer_those_of_the_evaluation(
    build, monkeypatch
):
    keys = ("rollout.steps=4", "evaluation.every=2")
    first = build(lambda i: 1, *keys)
    first.state.step, first.state.mini_batch = 2, 1
    checkpoint.save(first.checkpoints, first.learner, first.state, 2)
    write_json(first.run.dir / "eval" / "before.json", {"step": 0})
    made = build(lambda i: 1, *keys)
    names = evaluations(made, monkeypatch)
    made.restore()
    assert names == []


class Blind(Rubric):
    """Gives no verdict on most responses."""

    def __init__(self) -> None:
        """Need nothing."""

    def grade(self, pairs, lengths=None):
        """Return a verdict on every fourth response."""
        none = Verdict(Outcome.NO_VERDICT, 0.0, "raised KeyError('x')")
        bad = Reward(0.0, correct=False, valid=False, terms={"judge": none})
        good = Reward(1.0, True, True, {"judge": Verdict(Outcome.CORRECT, 1.0, "")})
        return [good if i % 4 == 0 else bad for i in range(len(pairs))]


def test_a_run_whose_verifier_stopped_answering_ends_with_a_checkpoint(build):
    made = build(lambda i: 1, "rollout.steps=9", "verifier.max_no_verdict=0.7")
    made.engine = replace(made.engine, rubric=Blind())
    with pytest.raises(trainer.monitor.NoVerdictError, match=r"75 %.*max_no_verdict.*KeyError"):
        steps(made, 9)
    assert made.state.step == 3
    newest = checkpoint.latest(made.checkpoints)
    assert newest.name == "step_000003"
    again = build(lambda i: 1, "rollout.steps=9", "verifier.max_no_verdict=0.7")
    again.state = checkpoint.load(newest, again.learner)
    steps(again, 5)  # the judge is back
    assert again.state.step == 5


def test_within_the_budget_the_run_goes_on(build):
    made = build(lambda i: 1, "rollout.steps=4", "verifier.max_no_verdict=0.75")
    made.engine = replace(made.engine, rubric=Blind())
    steps(made, 4)
