"""Checkpoints are whole or absent, newest last, and a full disk is the user's to mend."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sapo_vl.errors import DataError, SetupError
from sapo_vl.training import checkpoint
from sapo_vl.training.checkpoint import TrainState
from sapo_vl.training.manifest import damage


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
    assert seen == [["learner", "manifest.json", "rank_0.npz"]]


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
    assert names(path) == ["learner", "manifest.json", "rank_0.npz"]
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
    manifest = json.loads((path / "manifest.json").read_text())
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(DataError, match="written by 1 ranks and this run has 4: set SAPO_RANKS=1"):
        checkpoint.load(path, FakeLearner())
    monkeypatch.delenv("WORLD_SIZE")
    (path / "manifest.json").write_text(json.dumps(manifest | {"ranks": 2}))
    with pytest.raises(DataError, match="written by 2 ranks and this run has 1"):
        checkpoint.load(path, FakeLearner())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [
    (change, name)
    for change in (cut, flip, empty, Path.unlink)
    for name in ("rank_0.npz", "learner/value", "manifest.json")
    if (change, name) != (flip, "manifest.json")  # what is blamed depends on the bit
]


@pytest.mark.parametrize(("change", "name"), DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_named(tmp_path, capsys, change, name):
    root = tmp_path / "checkpoints"
    for step in (4, 5):
        save(root, step, value=10**step)
    change(root / "step_000005" / name)
    assert checkpoint.newest_whole(root)[0] == root / "step_000004"
    checkpoint.set_aside_damaged(tmp_path)
    assert checkpoint.latest(root) == root / "step_000004"
    assert names(root) == ["damaged-step_000005", "step_000004"]
    said = capsys.readouterr().out
    assert "step_000005" in said
    assert Path(name).name in said
    learner = FakeLearner()
    assert checkpoint.load(root / "step_000004", learner).step == 4
    assert learner.value == 10**4


def test_a_whole_checkpoint_is_left_alone(tmp_path, capsys):
    for root in (tmp_path / "checkpoints", tmp_path / "warmup" / "checkpoints"):
        save(root, 4)
        (root / "step_000004" / "keep").touch()  # a pin is no damage
    checkpoint.set_aside_damaged(tmp_path)
    assert names(tmp_path / "checkpoints") == ["step_000004"]
    assert capsys.readouterr().out == ""
    checkpoint.set_aside_damaged(tmp_path / "nothing")


def test_no_whole_checkpoint_is_an_error_and_loses_nothing(tmp_path):
    root = tmp_path / "warmup" / "checkpoints"
    for step in (4, 5):
        empty(save(root, step) / "learner" / "value")
    with pytest.raises(DataError, match=r"no checkpoint in .*warmup"):
        checkpoint.set_aside_damaged(tmp_path)
    assert names(root) == ["damaged-step_000004", "damaged-step_000005"]
    checkpoint.set_aside_damaged(tmp_path)  # then the user has chosen to start over


def test_the_ranks_share_the_files(tmp_path):
    path = save(tmp_path, 5)
    empty(path / "learner" / "value")  # the first of two files by name
    assert "learner/value" in damage(path, rank=0, ranks=2)
    assert damage(path, rank=1, ranks=2) == ""


def test_a_pickle_in_place_of_a_state_is_not_run(tmp_path):
    path = save(tmp_path, 5)
    np.savez(path / "rank_0.npz", json=np.array([print], dtype=object))
    with pytest.raises(DataError, match=r"rank_0\.npz is damaged"):
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


def test_the_best_is_pinned_in_place_of_an_earlier_best(tmp_path):
    checkpoint.mark_best(tmp_path, 1)  # has no checkpoint: nothing happens
    for step in (1, 2, 3):
        save(tmp_path, step, keep=1)
        if step < 3:
            checkpoint.mark_best(tmp_path, step)
    assert names(tmp_path) == ["step_000002", "step_000003"]
    assert checkpoint.latest(tmp_path).name == "step_000003"
    checkpoint.pin_last_before(tmp_path, 3)  # the same one, for another reason
    checkpoint.mark_best(tmp_path, 3)
    save(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["step_000002", "step_000003", "step_000004"]
