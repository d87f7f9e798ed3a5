"""`sapo-vl evaluate` and `benchmark`: an option of one is refused by the other."""

from __future__ import annotations

import contextlib
import io

import pytest
from helpers import one_line

from sapo_vl.cli.evaluation import BENCHMARK_OPTIONS
from sapo_vl.cli.parser import main
from sapo_vl.evaluation import heldout


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


def test_samples_of_evaluate_are_its_n(monkeypatch, tmp_path):
    """`avg@n` follows --samples; a folder of other settings is refused before the model is read."""
    asked = []
    monkeypatch.setattr(heldout, "main", lambda config, out: asked.append(config.evaluation))
    for more in (["--samples", "3"], ["evaluation.samples=4"]):
        main(["evaluate", "--model", str(tmp_path), "--out", str(tmp_path / "out"), *more])
    assert [options.samples for options in asked] == [3, 4]
    result = heldout.accuracy([], asked[0].samples)
    assert "avg@3" in result.summary()
    (tmp_path / "out" / "summary.json").write_text("{}")
    for more, word in ((["--samples", "3"], "samples=4, not 3"), (["run.seed=7"], "seed=0, not 7")):
        line = refused("evaluate", "--model", tmp_path, "--out", tmp_path / "out", *more)
        assert word in line or "samples=4, not" in line
    (tmp_path / "out" / "settings.json").unlink()
    line = refused("evaluate", "--model", tmp_path, "--out", tmp_path / "out", "--samples", "4")
    assert "no readable settings.json" in line
    assert len(asked) == 2


def refused(*arguments):
    with pytest.raises(SystemExit) as exit_, contextlib.redirect_stderr(io.StringIO()) as said:
        main([*map(str, arguments)])
    assert exit_.value.code == 2
    assert said.getvalue().count("\n") == 1
    return said.getvalue()


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("evaluate", "evaluation.benchmarks=[mathvision]"),
        ("evaluate", "evaluation.limit=3"),
        ("evaluate", "evaluation.every=3"),
        ("benchmark", "evaluation.samples=3"),
        ("benchmark", "evaluation.blank=true"),
        ("benchmark", "data.instruction=Think"),
        ("benchmark", "data.path=x"),
    ],
)
def test_a_key_without_effect_is_refused(command, override, tmp_path):
    more = ["--benchmarks", "mathvision", "--out", tmp_path / "o"] if command[0] == "b" else []
    assert override.split("=")[0] in refused(command, "--model", "m", *more, override)
    assert list(tmp_path.iterdir()) == []


def test_samples_given_twice_or_as_nothing_are_refused():
    assert "--samples" in refused("evaluate", "--model", "m", "--samples", 2,
                                  "evaluation.samples=3")  # fmt: skip
    assert "evaluation.samples" in refused("evaluate", "--model", "m", "--samples", 0)


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
