"""Checkpoints are whole or absent, newest last, and a full disk is the user's to mend."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sapo_vl.errors import DataError, SetupError
from sapo_vl.training import checkpoint
from sapo_vl.training.checkpoint import TrainState


class FakeLearner:
    """A learner whose state is one number; it can be told to fail while saving."""

    def __init__(self, value: int = 0, error: Exception | None = None) -> None:
        self.value = value
        self.error = error

    def save(self, directory: Path) -> None:
        (directory / "learner").mkdir()
        (directory / "learner" / "value").write_text(str(self.value))
        if self.error is not None:
            raise self.error

    def load(self, directory: Path) -> None:
        self.value = int((directory / "learner" / "value").read_text())


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def save(root: Path, step: int, mini_batch: int = 0, keep: int = 9, value: int = 0) -> Path:
    return checkpoint.save(root, FakeLearner(value), TrainState(step, mini_batch), keep)


def test_state_and_learner_come_back(tmp_path):
    state = TrainState(
        step=20,
        mini_batch=2,
        cursor=640,
        bad_steps=1,
        batch={"groups": [1], "num_mini_batches": 4},
        totals={"reward": 3.0},
        stats=[{"loss": 0.5}],
    )
    path = checkpoint.save(tmp_path, FakeLearner(7), state, 2)
    assert path == tmp_path / "step_000020+2"
    learner = FakeLearner()
    assert checkpoint.load(path, learner) == state
    assert learner.value == 7


def test_random_states_come_back(tmp_path):
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    path = save(tmp_path, 1)
    numbers = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    checkpoint.load(path, FakeLearner())
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == numbers


def test_the_newest_is_the_last_step_and_the_last_mini_batch(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    for step, mini_batch in ((2, 0), (10, 0), (9, 3), (10, 1), (10, 3), (9, 0)):
        save(tmp_path, step, mini_batch)
    assert checkpoint.latest(tmp_path).name == "step_000010+3"
    save(tmp_path, 11)
    assert checkpoint.latest(tmp_path).name == "step_000011"
    save(tmp_path, 1_000_000)
    assert checkpoint.latest(tmp_path).name == "step_1000000"


def test_only_the_newest_are_kept(tmp_path):
    for step, mini_batch in ((1, 0), (2, 0), (2, 2), (3, 0)):
        save(tmp_path, step, mini_batch, keep=2)
    assert names(tmp_path) == ["step_000002+2", "step_000003"]


def test_a_partial_folder_is_ignored(tmp_path):
    save(tmp_path, 4)
    (tmp_path / ".step_000005.partial" / "learner").mkdir(parents=True)
    (tmp_path / ".step_000003.old").mkdir()
    (tmp_path / "step_000006.tmp").mkdir()
    assert checkpoint.latest(tmp_path).name == "step_000004"


def test_a_checkpoint_is_complete_when_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    rename = Path.rename

    def spy(self, target):
        if Path(target).name == "step_000005":
            seen.append(names(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", spy)
    save(tmp_path, 5)
    assert seen == [["learner", "rank_0.pt"]]


def test_a_failed_write_leaves_the_older_checkpoint(tmp_path):
    save(tmp_path, 4)
    with pytest.raises(ValueError, match="boom"):
        checkpoint.save(tmp_path, FakeLearner(error=ValueError("boom")), TrainState(5), 2)
    assert checkpoint.latest(tmp_path).name == "step_000004"


def test_writing_again_replaces_what_a_killed_process_left(tmp_path):
    stale = tmp_path / ".step_000005.partial"
    (stale / "learner").mkdir(parents=True)
    (stale / "rubbish").write_text("x")
    path = save(tmp_path, 5, value=3)
    assert names(path) == ["learner", "rank_0.pt"]
    assert names(tmp_path) == ["step_000005"]


def test_the_same_step_can_be_saved_twice(tmp_path):
    save(tmp_path, 5, value=1)
    save(tmp_path, 5, value=2)
    learner = FakeLearner()
    checkpoint.load(checkpoint.latest(tmp_path), learner)
    assert learner.value == 2
    assert names(tmp_path) == ["step_000005"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_line_and_frees_its_space(tmp_path, number):
    save(tmp_path, 4)
    full = OSError(number, os.strerror(number))
    with pytest.raises(SetupError, match=r"no space left .*--resume") as caught:
        checkpoint.save(tmp_path, FakeLearner(error=full), TrainState(5), 2)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step_000004"]


def test_another_fault_of_the_disk_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError):
        checkpoint.save(tmp_path, FakeLearner(error=PermissionError(13, "no")), TrainState(5), 2)


def test_another_number_of_ranks_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path, 5)
    (path / "rank_1.pt").write_bytes((path / "rank_0.pt").read_bytes())
    with pytest.raises(DataError, match="written by 2 ranks and this run has 1: start with 2"):
        checkpoint.load(path, FakeLearner())
    (path / "rank_1.pt").unlink()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(DataError, match="written by 1 ranks and this run has 4"):
        checkpoint.load(path, FakeLearner())


def test_a_pinned_checkpoint_outlives_the_newest(tmp_path):
    assert checkpoint.pin_last_before(tmp_path, 9) is None
    for step, mini_batch in ((2, 0), (4, 0), (4, 1), (6, 0)):
        save(tmp_path, step, mini_batch)
    assert checkpoint.pin_last_before(tmp_path, 2) is None
    assert checkpoint.pin_last_before(tmp_path, 5).name == "step_000004+1"
    for step in (8, 10):
        save(tmp_path, step, keep=1)
    assert names(tmp_path) == ["step_000004+1", "step_000010"]
