"""What goes wrong in a run: records, verdicts, and evaluations that a kill cut off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_training import COUNT, sampled, steps

from sapo_vl.errors import DataError
from sapo_vl.generator.sampling import problem_seed
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.runs import warning_log
from sapo_vl.runs.files import write_json
from sapo_vl.schema import Outcome, Reward, Verdict
from sapo_vl.training import checkpoint, monitor
from sapo_vl.training.prompt_sampler import shuffled_indices
from sapo_vl.training.trainer import Trainer


def test_a_record_that_cannot_be_rendered_is_replaced_and_said_once(build, capsys):
    first = shuffled_indices(COUNT, 0, 0, 8)
    made = build(lambda i: 1)
    made.inputs.renderer.broken = {f"r{first[2]}", f"r{first[5]}"}
    batch, totals = sampled(made)
    ids = [group.prompt.sample.id for group in batch.groups]
    assert ids[:6] == [f"r{i}" for n, i in enumerate(first) if n not in (2, 5)]
    assert len(set(ids)) == 8
    assert not set(ids) & made.inputs.renderer.broken
    assert totals["responses"] == 16
    printed = capsys.readouterr().out
    assert printed.count("cut off") == 2
    assert f"record r{first[2]}" in printed
    kept = warning_log.read(made.run.dir)  # for the report
    assert [warning.step for warning in kept] == [1, 1]
    assert all(warning.text in printed for warning in kept)
    sampled(made)
    assert capsys.readouterr().out == ""
    again = build(lambda i: 1, name="other")
    again.inputs.renderer.broken = made.inputs.renderer.broken
    assert [g.prompt.sample.id for g in sampled(again)[0].groups] == ids


def test_replacements_may_be_faulty_too_and_keep_their_mini_batch(build):
    made = build(lambda i: 1, "data.ratio={sum: 1}")
    drawn = [draw.index for draw in made.inputs.prompt_sampler.step(0, 0, 0, 1)]
    rest = [i for i in range(COUNT) if i not in drawn]
    made.inputs.renderer.broken = {f"r{i}" for i in [drawn[0], *rest[:-1]]}
    batch, _ = sampled(made)
    assert sorted(g.mini_batch for g in batch.groups) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.groups[-1].prompt.sample.id == f"r{rest[-1]}"


def test_a_step_without_any_usable_record_says_so(build):
    made = build(lambda i: 1)
    made.inputs.renderer.broken = {f"r{i}" for i in range(COUNT)}
    with pytest.raises(DataError, match="step 1: none of its 64 records"):
        sampled(made)


def test_a_record_drawn_twice_in_a_step_gets_other_responses(build, records):
    made = build(lambda i: 1, records=records.subset(range(3)))
    sampled(made)
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
    made.sampler._engine = replace(made.engine, rubric=Blind())
    with pytest.raises(monitor.NoVerdictError, match=r"75 %.*max_no_verdict.*KeyError"):
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
    made.sampler._engine = replace(made.engine, rubric=Blind())
    steps(made, 4)
