"""`sapo-vl evaluate` and `benchmark`: an option of one is refused by the other."""

from __future__ import annotations

import pytest
from helpers import one_line

from sapo_vl.cli.evaluation import BENCHMARK_OPTIONS
from sapo_vl.cli.parser import main


def test_evaluate_names_the_command_that_runs_benchmarks():
    line = one_line("evaluate", "--benchmarks", "mathvision")
    assert "--benchmarks" in line
    assert "`sapo-vl benchmark`" in line


@pytest.mark.parametrize("option", BENCHMARK_OPTIONS)
def test_evaluate_refuses_what_only_benchmarks_take(option, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", "--model", "m", option, "1"])
    assert exit_.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("--benchmarks", "--out")),
        (["--benchmarks", "mathvison", "--out", "o"], ("'mathvison'", "'mathvision'")),
        (["--benchmarks", "mathvision"], ("--out",)),
        (["--benchmarks", "mathvision", "--out", "o", "--judge", "u"], ("--judge-model",)),
        (["--benchmarks", "mathvision", "--out", "o", "sapo.tau_ng=1"], ("'sapo.tau_neg'",)),
        (["--benchmarks", "mathvision", "--out", "o", "learner.lrr=1"], ("'learner.lr'",)),
    ],
)
def test_mistakes_in_benchmark(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", "--model", "m", *arguments])
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []
