"""What a run does at the collapse detector's alarm."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from sapo_vl.algorithm import collapse
from sapo_vl.config import load
from sapo_vl.training import checkpoint
from sapo_vl.training.checkpoint import Progress
from sapo_vl.training.trainer import Collapsed, look_for_collapse


class NoLearner:
    """Nothing to save."""

    def save(self, directory) -> None:
        """Write nothing."""


def job(tmp_path, *overrides):
    config = load(None, overrides)
    for step in (2, 4, 6):
        checkpoint.save(tmp_path / "checkpoints", NoLearner(), Progress(step), 9)
    return SimpleNamespace(
        config=config,
        detector=collapse.Detector(config.collapse),
        checkpoints=tmp_path / "checkpoints",
        run=SimpleNamespace(dir=tmp_path),
    )


def rows(count, start=1, **values):
    healthy = {"entropy": 0.5, "gate/mean": 0.999, "ratio/ess": 0.99, "reward/mean": 0.4}
    return [{"phase": "train", "step": start + i, **healthy, **values} for i in range(count)]


def test_an_alarm_keeps_the_last_good_checkpoint_and_says_what_it_saw(tmp_path, capsys):
    made = job(tmp_path)
    for row in [*rows(4), *rows(3, 5, entropy=0.001)]:
        look_for_collapse(made, row)
    (said,) = json.loads((tmp_path / "collapse.json").read_text())
    assert (said["rule"], said["step"], said["since"]) == ("entropy_low", 7, 5)
    assert said["checkpoint"] == "step_000004"
    assert said["row"]["entropy"] == 0.001
    assert "step_000004 is kept" in capsys.readouterr().out
    for step in (8, 10, 12):  # and it outlives the others
        checkpoint.save(made.checkpoints, NoLearner(), Progress(step), 1)
    names = sorted(path.name for path in made.checkpoints.iterdir())
    assert names == ["step_000004", "step_000012"]
    assert checkpoint.latest(made.checkpoints).name == "step_000012"


def test_it_can_stop_the_run(tmp_path):
    made = job(tmp_path, "collapse.action=stop", "collapse.patience=1")
    with pytest.raises(Collapsed, match=r"step 1: stopped by the collapse detector"):
        look_for_collapse(made, rows(1, entropy=0.001)[0])


def test_without_an_earlier_checkpoint_that_is_said(tmp_path, capsys):
    made = job(tmp_path, "collapse.patience=1")
    look_for_collapse(made, rows(1, entropy=0.001)[0])
    assert "no checkpoint before it" in capsys.readouterr().out


def test_it_can_be_ignored(tmp_path):
    made = job(tmp_path, "collapse.action=ignore")
    for row in rows(9, entropy=0.0):
        look_for_collapse(made, row)
    assert not (tmp_path / "collapse.json").exists()
