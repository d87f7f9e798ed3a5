"""`sapo-vl replay`: its exit codes, and bundles that can't be run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import one_line

from sapo_vl.cli.parser import main
from sapo_vl.training import replay
from sapo_vl.training.replay import Agreement


@pytest.mark.parametrize(
    ("agreement", "code"),
    [
        (Agreement.EXACT, None),
        (Agreement.CLOSE, None),
        (Agreement.AGAIN, None),
        (Agreement.NOTHING, None),
        (Agreement.NOT, 1),
        (Agreement.DIFFERENT, 1),
        (Agreement.OTHER, 1),
    ],
)
def test_the_exit_code_says_whether_it_was_reproduced(monkeypatch, agreement, code):
    asked = []
    monkeypatch.setattr(replay, "main", lambda *words: asked.append(words) or agreement)
    words = ["replay", "run/autopsy/x", "--model", "m", "objective=sapo", "learner.lr=1"]
    if code is None:
        main(words)
    else:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == code
    assert asked == [(Path("run/autopsy/x"), "m", ["objective=sapo", "learner.lr=1"])]


def test_a_folder_that_is_no_autopsy_is_one_line(tmp_path):
    assert "is not an autopsy's folder" in one_line("replay", tmp_path)
    facts = {"cause": "stall", "message": "m", "step": 1, "rank": 0, "ranks": 1, "seed": 0}
    rest = {"lr": None, "mini_batch": None, "mini_batches": None, "on_policy": False}
    rest |= {"denominator": None, "records": [], "weights": None, "checkpoint": None}
    rest |= {"steps_since": 0, "missing": []}
    (tmp_path / "manifest.json").write_text(json.dumps(facts | rest))
    assert "config.yaml is missing" in one_line("replay", tmp_path)
    (tmp_path / "config.yaml").write_text("model: {path: /nowhere}\n")
    line = one_line("replay", tmp_path)
    assert "/nowhere is gone: name a folder with the model by --model" in line
