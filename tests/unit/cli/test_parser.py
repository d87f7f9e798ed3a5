"""The command line as a whole: help and a user's mistakes, in one line, with code 2, and fast."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
from helpers import ROOT, cli, environment, one_line

QUICK = 1.0
"""Upper limit of the processor time in seconds, which a loaded machine hardly changes."""


def processor_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def quickly(*arguments: str, code: int) -> str:
    """Run a command that must answer within QUICK seconds; return its output."""
    before = processor_seconds()
    done = cli(*arguments)
    seconds = processor_seconds() - before
    assert done.returncode == code, done.stderr
    assert seconds < QUICK
    return done.stdout + done.stderr


def test_help_answers_at_once():
    text = quickly("--help", code=0)
    for command in (
        *("train", "sft", "export", "init-tiny", "gate", "lab", "evaluate", "benchmark", "score"),
        *("compare", "verify", "prepare", "data", "config"),
    ):
        assert f"    {command}" in text
    assert "--resume" in quickly("train", "--help", code=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "learner.lrr=1"], "unknown key 'learner.lrr'; did you mean 'learner.lr'"),
        (["trian"], "unknown command 'trian'; did you mean 'train'"),
        (["train", "--resmue", "run.dir=x"], "--resmue; did you mean '--resume'"),
        (["evaluate", "--modle", "x"], "did you mean '--model'"),
        (["evaluate"], "--model"),
        (["train", "--config", "configs/train/mian.yaml"], "did you mean 'train/main'"),
        (["train", "learner.lr=big"], "learner.lr='big'"),
        (["train", "--resume", "run.dir=absent/run"], "run.dir=absent/run"),
        (["sft", "sft.steps=0"], "sft.steps=0"),
        ([], "COMMAND"),
    ],
)
def test_a_typo_is_answered_at_once_in_one_line(arguments, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = quickly(*arguments, code=2)
    assert words in text
    assert len(text.strip().splitlines()) == 1, text


@pytest.mark.parametrize(
    "command", [["train"], ["sft", "sft.steps=1"], ["evaluate", "--model", "m"]]
)
def test_options_of_the_objective_are_checked_too(command):
    """Not within QUICK: the options' types come with torch."""
    assert "'sapo.tau_ng'; did you mean 'sapo.tau_neg'" in one_line(*command, "sapo.tau_ng=1.1")
    assert "sapo.tau_neg='big'" in one_line(*command, "sapo.tau_neg=big")


def test_overrides_may_stand_anywhere(tmp_path):
    text = one_line("train", "run.seed=3", "--config", ROOT / "configs/train/smoke.yaml", "x.y=1")
    assert "unknown key 'x" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "mathvison", "--source", "x"], "did you mean 'mathvision'"),
        (["prepare", "mathvision"], "mathvision"),
        (["prepare", "mathvision", "--source", "absent"], "absent"),
        (["prepare", "mathvision", "--source", "."], "testmini"),
        (["prepare", "synthetic", "--source", "x"], "source"),
        (["prepare", "synthetic", "--teacher", "wise"], "'wise'; allowed: weak, exact"),
        (["prepare", "mathvision", "--source", ".", "--holdout", "1.5"], "holdout: 1.5"),
        (["prepare", "absent.py:rows"], "absent.py"),
    ],
)
def test_mistakes_in_preparing(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in one_line(*arguments, "--out", "out")
    assert not (tmp_path / "out").exists()


def test_preparing_does_not_overwrite(tmp_path):
    out = tmp_path / "d"
    small = ("--count", "6", "--test-count", "6")
    assert cli("prepare", "synthetic", "--out", out, *small).returncode == 0
    assert "holds a data set already" in one_line("prepare", "synthetic", "--out", out, *small)
    done = cli("prepare", "synthetic", "--out", out, *small, "--overwrite")
    assert done.returncode == 0, done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    text = one_line("prepare", "synthetic", "--out", tmp_path / "mine", *small, "--overwrite")
    assert "holds other files (thesis.tex" in text


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line(tmp_path):
    """The report of a prepared data set goes to a device that is always full."""
    out = tmp_path / "d"
    code = (
        "import sys; from pathlib import Path; from sapo_vl import cli; write = Path.write_text\n"
        "def full(self, *a, **k):\n"
        "    return write(Path('/dev/full') if self.name == 'report.json' else self, *a, **k)\n"
        "Path.write_text = full\n"
        f"cli.main(['prepare', 'synthetic', '--out', {str(out)!r}, '--count', '6',"
        " '--test-count', '6'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 2, done.stderr
    assert "no space left on the disk" in done.stderr
    assert "Traceback" not in done.stderr
