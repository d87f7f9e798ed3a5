"""Options that several commands share."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from helpers import ROOT

from sapo_vl.cli.options import endpoint, find_config, load_config, names
from sapo_vl.config import CONFIGS
from sapo_vl.errors import ConfigError


@pytest.mark.parametrize(
    "name",
    ["smoke", "smoke.yaml", "train/smoke", "train/smoke.yaml", "configs/train/smoke.yaml"],
)
def test_a_shipped_configuration_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "train" / "smoke.yaml"


def test_a_file_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smoke").write_text("run: {seed: 7}\n")
    assert find_config("smoke") == Path("smoke")
    assert load_config(Namespace(config="smoke", overrides=["run.dir=x"])).run.seed == 7
    assert load_config(Namespace(config=None, overrides=["run.seed=3"])).run.seed == 3


def test_an_unknown_name_lists_what_is_shipped_and_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"qwen3_vl_5b.*eval/synthetic.*'qwen3_vl_.b'"):
        find_config("qwen3_vl_5b")
    with pytest.raises(ConfigError, match=r"--config smok .*did you mean 'smoke'"):
        find_config("smok")


def test_a_name_in_two_folders_is_ambiguous(tmp_path, monkeypatch):
    for folder in ("eval", "train"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "main.yaml").touch()
    monkeypatch.setattr("sapo_vl.cli.options.CONFIGS", tmp_path)
    with pytest.raises(ConfigError, match=r"--config main .*eval/main, train/main"):
        find_config("main")
    assert find_config("eval/main") == tmp_path / "eval" / "main.yaml"


def test_no_two_shipped_configurations_share_a_name():
    stems = [path.stem for path in ROOT.glob("configs/*/*.yaml")]
    assert len(stems) >= 8
    assert len(stems) == len(set(stems))


def test_names_are_split_at_commas():
    assert names(" a, b,,my/bench.py:NAME ") == ["a", "b", "my/bench.py:NAME"]
    assert names(" , ") == []


def test_a_judge_needs_its_model():
    assert endpoint(Namespace(judge=None, judge_model=None)) is None
    assert endpoint(Namespace(judge="http://j/v1", judge_model="m")).model == "m"
    for half in ({"judge": "u", "judge_model": None}, {"judge": None, "judge_model": "m"}):
        with pytest.raises(ConfigError, match="--judge-model"):
            endpoint(Namespace(**half))
