"""The examples of the pages on your own data, verifier and objective run as they stand there."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, bare_prompt, cli

from sapo_vl.algorithm import objectives
from sapo_vl.config import load
from sapo_vl.data import store
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.schema import Outcome, Reward, Rollout, RolloutGroup, Sample, Verdict
from sapo_vl.training.rollouts import write_parquet

FILE = re.compile(r"```python\n# (my/\w+\.py)[^\n]*\n(.*?)```", re.S)


def text_of(page: str) -> str:
    """Return a page's Markdown."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.S)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a page's files into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as PYTHONPATH=. on the pages

    def files(page: str) -> list[str]:
        found = FILE.findall(text_of(page))
        for name, code in found:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(code, encoding="utf-8")
        return [name for name, _ in found]

    yield files
    for name in [name for name in sys.modules if name.partition(".")[0] == "my"]:
        del sys.modules[name]


def run(line: str) -> None:
    """Run a line of a page in the working directory."""
    words = [word for word in shlex.split(line) if word != "PYTHONPATH=."]
    if words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
    else:
        assert words[0] == "sapo-vl", line
        done = cli(*words[1:])
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def commands(page: str) -> list[str]:
    """Return the lines of a page's shell blocks that start no training."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if "train_vl.sh" not in line]


def records(folder: Path) -> list[Sample]:
    """Return the samples of both splits."""
    return [sample for split in ("train", "test") for sample in store.load(folder, split)]


def test_the_data_page(write):
    assert write("docs/own-data.md") == ["my/make_problems.py", "my/source.py"]
    for line in commands("docs/own-data.md"):
        run(line)
    table = {int(s.id.removeprefix("problems-")): s for s in records(Path("runs/data/dots"))}
    source = {int(s.id): s for s in records(Path("runs/data/dots2"))}
    for found in (table, source):
        assert {i: s.answer for i, s in found.items()} == {i: str(i % 8 + 1) for i in range(40)}
    assert {i: s.images for i, s in table.items()} == {i: s.images for i, s in source.items()}
    assert {s.answer_type for s in source.values()} == {"count"}
    assert Path("dots.html").read_text(encoding="utf-8").count("How many dots") == 40


def test_the_verifier_page(write):
    """The page's table is what the command says about the page's rows."""
    write("docs/own-verifier.md")
    (rows,) = blocks("docs/own-verifier.md", "json")
    Path("pairs.jsonl").write_text(rows, encoding="utf-8")
    (line,) = commands("docs/own-verifier.md")
    run(line)
    found = [json.loads(row) for row in Path("verdicts.jsonl").read_text().splitlines()]
    cells = [(v["id"], v["outcome"], str(v["score"]), v["reason"]) for v in found]
    table = re.findall(r"^\| (\w+) \| (correct|wrong) \| ([\d.]+) \| (.*?) \|$",
                       text_of("docs/own-verifier.md"), re.M)  # fmt: skip
    assert len(table) == 4
    assert table == cells


def test_the_verifier_pages_terms_are_a_rubric(write, tmp_path):
    write("docs/own-verifier.md")
    (terms,) = blocks("docs/own-verifier.md", "yaml")
    (tmp_path / "terms.yaml").write_text(terms, encoding="utf-8")
    config = load(tmp_path / "terms.yaml", [])
    assert [term.weight for term in config.rewards] == [0.9, 0.1, -0.2]
    build_rubric(config).close()


def test_the_objective_page(write, capsys):
    assert write("docs/own-objective.md") == ["my/loss.py", "my/check_loss.py", "my/token_mean.py"]
    (line,) = commands("docs/own-objective.md")
    run(line)
    printed = json.loads(capsys.readouterr().out.removeprefix("the gradient is "))
    # r^0.5 A of the page's ratios and advantages
    expected = [0.5**0.5, -(0.9**0.5), 2.0, -0.5 * 1.1**0.5, 1.5 * 2**0.5]
    assert printed == pytest.approx(expected, abs=1e-6)


def test_the_objective_pages_spec_resamples_and_averages_over_tokens(write):
    write("docs/own-objective.md")
    config = objectives.resolve(load(None, ["objective=my/token_mean.py:spec", "spec.power=0.5"]))
    objective = objectives.build(config)
    assert config.objective_options == {"power": 0.5}
    assert objective.max_resample_rounds == 2
    assert objective.aggregation is objectives.TOKEN_MEAN


def test_the_first_runs_script_reads_rollouts(write, monkeypatch, capsys):
    assert write("docs/first-run.md") == ["my/read_rollouts.py"]
    wrong = Verdict(Outcome.WRONG, 0.0, "another number")
    rollout = Rollout(
        bare_prompt(),
        [1, 2],
        "It is 8.",
        generator_logprobs=np.zeros(2, np.float32),
        old_logprobs=np.zeros(2, np.float32),
        reward=Reward(0.25, False, True, {"boxed": wrong}),
    )
    write_parquet(Path("step.parquet"), [RolloutGroup(rollout.prompt, [rollout])])
    monkeypatch.setattr(sys, "argv", ["my/read_rollouts.py", "step.parquet"])
    run("python my/read_rollouts.py")
    assert capsys.readouterr().out == "0.25  gold 7: It is 8.\n"
