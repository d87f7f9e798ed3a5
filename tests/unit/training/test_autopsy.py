"""When a run leaves a bundle, what is in it, and that writing one never ends the run."""

from __future__ import annotations

import fake_training
import pytest
from fake_training import steps

from sapo_vl.algorithm.collapse import Alarm
from sapo_vl.runs import signals
from sapo_vl.training import autopsy, bundle, checkpoint
from sapo_vl.training.bundle import read_manifest
from sapo_vl.training.parity import ParityError, WeightsError

OPTIONS = ("rollout.steps=6", "checkpoint.every=1", "checkpoint.keep=1")


class Alarming:
    """A collapse detector with an alarm at every step."""

    def observe(self, row) -> list[Alarm]:
        step = row["step"]
        return [Alarm("entropy_low", step, step, 0.0, 2.0, f"entropy is low since step {step}")]


@pytest.fixture(autouse=True)
def without_weights(monkeypatch):
    """The fake learner has none; tests/integration/test_autopsy.py has a real one."""
    monkeypatch.setattr(autopsy, "_save_weights", lambda trainer, root: None)


def names(made) -> list[str]:
    return sorted(p.name for p in (made.run.dir / bundle.FOLDER).glob("*"))


def test_an_alarm_leaves_the_steps_rollouts_at_most_three_times(build, capsys):
    made = build(lambda i: 1, *OPTIONS)
    made.detector = Alarming()
    steps(made, 5)
    assert names(made) == [f"step_00000{i}-collapse" for i in (1, 2, 3)]
    path = made.run.dir / "autopsy" / "step_000003-collapse"
    found = read_manifest(path)
    assert (found.cause, found.step, found.mini_batch, found.on_policy) == (
        "collapse",
        3,
        None,
        False,
    )
    assert found.message == "entropy is low since step 3"
    assert found.lr == 1e-6  # the last of three steps of learning-rate warm-up
    assert len(found.records) == 8
    assert (found.checkpoint, found.steps_since) == ("step_000002", 0)
    assert f"sapo-vl replay {path}" in capsys.readouterr().out


def test_an_error_of_parity_leaves_its_rollouts(build):
    made = build(lambda i: 1, *OPTIONS, "generator.parity_stop=0.0009")
    with pytest.raises(ParityError):
        steps(made, 1)
    assert names(made) == ["step_000001-parity"]
    found = read_manifest(made.run.dir / "autopsy" / "step_000001-parity")
    assert "generator.parity_stop" in found.message
    assert (found.mini_batches, found.checkpoint) == (4, None)
    assert len(found.records) == 8


def test_ruined_weights_leave_a_bundle_and_the_error_stays(build, monkeypatch):
    made = build(lambda i: 1, *OPTIONS)
    steps(made, 2)

    def ruined():
        raise WeightsError("step 3: too large")

    monkeypatch.setattr(made, "check_weights", ruined)
    with pytest.raises(WeightsError, match="too large"):
        steps(made, 3)
    found = read_manifest(made.run.dir / "autopsy" / "step_000003-weights")
    assert (found.checkpoint, found.steps_since) == ("step_000002", 0)


def test_a_disk_that_fails_does_not_end_the_run(build, monkeypatch, capsys):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "write_bundle", broken)
    made = build(lambda i: 1, *OPTIONS)
    made.detector = Alarming()
    steps(made, 2)
    assert made.state.step == 2
    assert "an autopsy could not be written: OSError: " in capsys.readouterr().out
    assert names(made) == []


class Stuck(fake_training.Learner):
    """Has the watchdog's autopsy made in the middle of an update, twice per step."""

    def __init__(self, made) -> None:
        super().__init__()
        self._made = made

    def update(self, rollouts, objective, lr):
        if len(self.updates) % 4 == 1:
            autopsy.at_stall(self._made.run, self._made, "no progress for 1 minutes")
        return super().update(rollouts, objective, lr)


def test_a_stall_leaves_the_mini_batch_in_progress(build):
    made = build(lambda i: 1, *OPTIONS)
    made.learner = Stuck(made)
    steps(made, 4)
    assert names(made) == [f"step_00000{i}-stall" for i in (1, 2, 3)]  # no fourth
    path = made.run.dir / "autopsy" / "step_000002-stall"
    found = read_manifest(path)
    assert (found.step, found.mini_batch, found.mini_batches) == (2, 2, 4)
    assert len(found.records) == 2  # 8 prompts in 4 mini-batches
    assert (path / "batch.npz").exists()
    assert found.checkpoint == "step_000001"


def test_the_first_mini_batch_is_on_policy_and_later_ones_are_not(build):
    made = build(lambda i: 1, *OPTIONS)
    found = []

    def update(rollouts, objective, lr):
        autopsy.at_stall(made.run, made, "m")
        found.append(read_manifest(autopsy._written(made.run.dir / "autopsy", "stall")[-1]))
        return fake_training.Learner.update(made.learner, rollouts, objective, lr)

    made.learner.update = update
    steps(made, 1)
    assert [(m.mini_batch, m.on_policy) for m in found[:2]] == [(1, True), (2, False)]


def test_a_stall_while_sampling_names_the_records(build):
    made = build(lambda i: 1, *OPTIONS)
    paths = []

    def generate(requests):
        paths.append(autopsy.at_stall(made.run, made, "m"))
        return fake_training.Generator.generate(made.generator, requests)

    made.generator.generate = generate
    steps(made, 1)
    found = read_manifest(paths[0])
    assert found.records == [f"r{i}" for i in made.generator.calls[0]]
    assert not (paths[0] / "batch.npz").exists()
    assert "no batch in this folder" in (paths[0] / "README.txt").read_text()


def test_the_watchdog_has_the_trainers_autopsy(build, capfd):
    made = build(lambda i: 1, "run.stall_minutes=90")
    signals._watchdog.autopsy(90.0)
    assert names(made) == ["step_000000-stall"]
    said = capfd.readouterr().err
    assert "no progress for 90 minutes (run.stall_minutes); autopsy in" in said
    assert "replay" not in said  # there is no batch yet


def test_a_bundle_without_weights_pins_its_checkpoint(build):
    made = build(lambda i: 1, *OPTIONS)
    steps(made, 1)
    autopsy.at_stall(made.run, made, "m")
    assert (checkpoint.latest(made.checkpoints) / checkpoint.KEEP).exists()
