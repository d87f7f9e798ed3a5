"""The best checkpoint by a held-out figure, and early stop."""

from __future__ import annotations

import json

import pytest

from sapo_vl.config import load
from sapo_vl.errors import ConfigError
from sapo_vl.evaluation.heldout import Accuracy, evaluation_settings
from sapo_vl.runs.files import write_json
from sapo_vl.runs.metrics import MetricsWriter, read
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.train import train_loop
from sapo_vl.training import trainer as trainer_module
from sapo_vl.training.best import Best, best_so_far, check_metric
from sapo_vl.training.checkpoint import TrainState

EVERY = ("evaluation.every=2", "checkpoint.best=avg", "collapse.action=ignore")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["checkpoint.best=avg"], "evaluation.every"),
        (["evaluation.patience=2", "evaluation.every=2"], "checkpoint.best"),
        (["checkpoint.best=greedy", *EVERY[:1], "evaluation.greedy=false"], "evaluation.greedy"),
        (["checkpoint.best=accuracy", *EVERY[:1]], "checkpoint.best=accuracy is neither"),
    ],
)
def test_a_figure_that_no_evaluation_gives_is_refused(overrides, named):
    with pytest.raises(ConfigError, match=named):
        load(None, overrides)


def test_an_unknown_benchmark_is_refused_with_the_nearest():
    overrides = ["checkpoint.best=mathvist", *EVERY[:1], "evaluation.benchmarks=[mathvista]"]
    config = load(None, overrides)
    with pytest.raises(ConfigError, match="did you mean 'mathvista'"):
        check_metric(config, ["mathvista"])
    config.checkpoint.best = "mathvista"
    check_metric(config, ["mathvista"])


@pytest.fixture
def past(tmp_path):
    """Return a configuration and a function that records an evaluation in its run."""
    config = load(None, [f"run.dir={tmp_path}", *EVERY])

    def record(step: int, name: str = "", samples: int = 8, **figures) -> None:
        name = name or f"step_{step:06d}"
        settings = evaluation_settings(config) | {"samples": samples}
        (tmp_path / "eval").mkdir(exist_ok=True)
        write_json(tmp_path / "eval" / f"{name}.json", {"step": step, "settings": settings})
        row = {"phase": "eval", "step": step, "name": name.split("-")[0], **figures}
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    return config, record


def test_the_best_is_the_highest_and_of_equal_ones_the_earliest(past):
    config, record = past
    assert best_so_far(config, 9) is None
    record(0, "before", avg=0.9)  # has no checkpoint
    for step, avg in ((2, 0.3), (4, 0.5), (6, None), (8, 0.5), (10, 0.4)):
        record(step, avg=avg)
    record(12, "after", avg=0.6)
    assert best_so_far(config, 3) == Best("avg", 2, 0.3, 1, 0)
    assert best_so_far(config, 11) == Best("avg", 4, 0.5, 4, 2)  # step 6 had no verdict
    assert best_so_far(config, 12) == Best("avg", 12, 0.6, 5, 0)


def test_figures_with_other_settings_do_not_count(past):
    config, record = past
    record(2, avg=0.8, samples=4)
    record(4, avg=0.5)
    assert best_so_far(config, 4) == Best("avg", 4, 0.5, 1, 0)


def test_the_end_of_a_run_that_went_on_counts_at_its_own_step(past):
    config, record = past
    record(4, "after-step_000004", avg=0.7)
    record(6, "after", avg=0.2)
    assert best_so_far(config, 6) == Best("avg", 4, 0.7, 2, 1)


def test_the_figure_may_be_a_benchmark_s_or_the_greedy_one(past):
    config, record = past
    record(2, avg=0.1, greedy=0.3, **{"benchmark/mathvista": 0.6})
    record(4, avg=0.9, greedy=0.2, **{"benchmark/mathvista": 0.5})
    for metric, best in (("greedy", 2), ("mathvista", 2), ("avg", 4)):
        config.checkpoint.best = metric
        assert best_so_far(config, 4).step == best


CURVE = {0: 0.9, 2: 0.3, 4: 0.5, 6: 0.4, 8: 0.45, 10: 0.6, 12: 0.55}


@pytest.fixture
def started(build, monkeypatch):
    """Return a function that builds a trainer whose held-out accuracy is CURVE's."""
    writers = []

    def make(*overrides: str, signal_at: int = 0, name: str = "run"):
        keys = ("rollout.steps=12", "checkpoint.every=100", "checkpoint.keep=1", *EVERY, *overrides)
        made = build(lambda i: 1, *keys, name=name, signal_at=signal_at)
        for writer in writers:
            writer.close()
        made.writer = MetricsWriter(made.run.dir)
        writers.append(made.writer)
        made.evaluated = []

        def evaluate(engine, samples, spec, out) -> Accuracy:
            made.evaluated.append(made.state.step)
            avg = CURVE[made.state.step]
            return Accuracy(avg, (0.0, 1.0), None, 8, 3, 0, {}, {})

        monkeypatch.setattr(trainer_module, "evaluate", evaluate)
        monkeypatch.setattr(trainer_module, "in_training", lambda *arguments: {})
        return made

    return make


def checkpoints(made) -> list[str]:
    return sorted(path.name for path in made.checkpoints.iterdir())


def test_the_best_checkpoint_is_kept_besides_the_newest(started):
    made = started()
    made.restore()
    train_loop(made)
    assert made.evaluated == [0, 2, 4, 6, 8, 10]  # the last step's is the report's
    assert checkpoints(made) == ["step_000010", "step_000012"]
    assert (made.checkpoints / "step_000010" / "best").exists()
    assert made.best.now == Best("avg", 10, 0.6, 5, 0)
    assert not made.best.patience_lost


def test_without_a_better_figure_the_run_ends_and_can_go_on(started):
    made = started("evaluation.patience=2")
    made.restore()
    train_loop(made)
    assert made.state.step == 8
    assert made.best.now == Best("avg", 4, 0.5, 4, 2)
    assert checkpoints(made) == ["step_000004", "step_000008"]

    again = started("evaluation.patience=2")  # resumed as it is, it is at its end at once
    again.restore()
    train_loop(again)
    assert (again.state.step, again.evaluated) == (8, [])

    longer = started("evaluation.patience=3")
    longer.restore()
    train_loop(longer)
    assert (longer.state.step, longer.evaluated) == (12, [10])
    assert checkpoints(longer) == ["step_000010", "step_000012"]


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_run_that_stopped_early_goes_on_as_if_it_had_not(started, ahead):
    """Batches sampled ahead of the end are in its last checkpoint."""
    keys = (f"rollout.ahead={ahead}", "data.rest_after=1")
    whole = started(*keys, name="whole")
    whole.restore()
    train_loop(whole)
    first = started(*keys, "evaluation.patience=2", name="cut")
    first.restore()
    train_loop(first)
    assert first.state.step == 8
    second = started(*keys, name="cut")
    second.restore()
    train_loop(second)
    assert second.learner.updates == whole.learner.updates
    assert first.generator.calls + second.generator.calls == whole.generator.calls


@pytest.mark.parametrize("signal_at", [3, 17, 22])  # of 4 updates a step: in steps 1, 5 and 6
def test_an_interrupted_run_decides_as_a_whole_one(started, signal_at):
    whole = started("evaluation.patience=2", name="whole")
    whole.restore()
    train_loop(whole)
    first = started("evaluation.patience=2", name="cut", signal_at=signal_at)
    first.restore()
    with pytest.raises(RunInterrupted):
        train_loop(first)
    second = started("evaluation.patience=2", name="cut")
    second.restore()
    train_loop(second)
    assert second.best.now == whole.best.now
    assert second.learner.updates == whole.learner.updates
    assert checkpoints(second) == checkpoints(whole)

    def evaluations(made):
        return [(r["step"], r["avg"]) for r in read(made.run.dir) if r["phase"] == "eval"]

    assert evaluations(second) == evaluations(whole)


def test_an_evaluation_cut_off_after_its_checkpoint_is_made_up_for(started):
    """A kill between the checkpoint and the evaluation of step 4."""
    first = started("evaluation.patience=2", "rollout.steps=5")
    first.restore()
    evaluate = trainer_module.evaluate

    def killed(engine, samples, spec, out):
        if first.state.step == 4:
            raise KeyboardInterrupt
        return evaluate(engine, samples, spec, out)

    trainer_module.evaluate = killed
    with pytest.raises(KeyboardInterrupt):
        train_loop(first)
    second = started("evaluation.patience=2")
    second.restore()
    assert second.evaluated == [4]
    assert second.best.now == Best("avg", 4, 0.5, 2, 0)
    assert (second.checkpoints / TrainState(4).name / "best").exists()


def test_without_the_key_nothing_is_saved_for_an_evaluation(started):
    made = started("checkpoint.best=null")
    made.restore()
    train_loop(made)
    assert checkpoints(made) == ["step_000012"]
    assert made.best.now is None
