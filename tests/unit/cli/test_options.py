"""Options that several commands share."""

from __future__ import annotations

import errno
from argparse import Namespace
from pathlib import Path

import pytest
from helpers import ROOT

from sapo_vl.cli import parser, training
from sapo_vl.cli.options import endpoint, find_config, load_config, names
from sapo_vl.config import CONFIGS, load
from sapo_vl.errors import ConfigError
from sapo_vl.runs.folder import Run


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


def test_a_home_folder_in_an_option_is_expanded(monkeypatch):
    """A shell expands `--out ~/x`, but not `--out=~/x`."""
    monkeypatch.setenv("HOME", "/home/me")
    arguments = parser._parse(["export", "~/run", "--out=~/x"])
    assert (arguments.run_dir, arguments.out) == (Path("/home/me/run"), Path("/home/me/x"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_file_error_of_the_machine_is_one_line(number, monkeypatch, capsys):
    def fail(arguments: Namespace) -> None:
        raise OSError(number, "no way", "/some/\nwhere")

    monkeypatch.setattr(training, "_gate", fail)
    with pytest.raises(SystemExit) as caught:
        parser.main(["gate"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "sapo-vl: /some/\\nwhere: no way\n"


def test_another_file_error_stays_a_traceback(monkeypatch):
    def fail(arguments: Namespace) -> None:
        raise OSError(errno.EBADF, "our own mistake")

    monkeypatch.setattr(training, "_gate", fail)
    with pytest.raises(OSError, match="our own mistake"):
        parser.main(["gate"])


def test_a_judges_address_holds_no_password():
    for url in ("http://me:s3cret@host/v1", "host/v1", "http://host/v1?key=s3cret"):
        with pytest.raises(ConfigError, match="--judge") as caught:
            endpoint(Namespace(judge=url, judge_model="m"))
        assert "s3cret" not in str(caught.value)


def test_a_resumed_run_goes_on_with_its_own_configuration(tmp_path):
    config = load(None, [f"run.dir={tmp_path / 'run'}", "run.seed=3", "learner.lr=0.1"])
    Run(config, resume=False).close()
    (tmp_path / "new.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\nlearner: {{lr: 0.2}}\n")
    for words, lr in (
        (["--config", str(tmp_path / "new.yaml")], 0.2),
        ([f"run.dir={tmp_path / 'run'}", "learner.lr=0.3"], 0.3),
        (["--config", "smoke", f"run.dir={tmp_path / 'run'}", "run.seed=3"], None),
    ):
        arguments = parser._parse(["train", "--resume", *words])
        if lr is None:  # smoke.yaml sets keys that the checkpoint is tied to
            with pytest.raises(ConfigError, match="can't be set with --resume"):
                training._load_run(arguments)
        else:
            found = training._load_run(arguments)
            assert (found.run.seed, found.learner.lr) == (3, lr)
    with pytest.raises(ConfigError, match="holds no run to resume"):
        training._load_run(parser._parse(["train", "--resume", f"run.dir={tmp_path}"]))
