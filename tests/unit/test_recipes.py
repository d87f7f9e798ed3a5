"""CONTRIBUTING's recipes, followed: each file is written as it stands there and used by path."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT, cli, make_sample, picture, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.surrogate import LossInputs
from sapo_vl.config import load
from sapo_vl.data import store
from sapo_vl.errors import ConfigError
from sapo_vl.generator.base import SamplingParams, build
from sapo_vl.generator.sampling import SampleEngine, sample_and_grade
from sapo_vl.model.families.base import Family
from sapo_vl.rewards.rubric import Rubric

BLOCK = re.compile(r"```python\n# (my/\w+\.py) -> [^\n]*\n(.*?)```", re.S)


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """Write all of CONTRIBUTING's files below a folder and return it."""
    blocks = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert sorted(blocks) == [
        f"my/{name}.py" for name in ("bench", "engine", "loss", "source", "verifier")
    ]
    for name, text in blocks.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "my"


def test_the_verifier_grades(recipes):
    rubric = Rubric.from_terms([(f"{recipes}/verifier.py:score", 1.0)])
    sample = make_sample()  # its answer is 7
    try:
        rewards = rubric.grade([(sample, "It is 7."), (sample, "It is 8"), (sample, "")])
    finally:
        rubric.close()
    assert [(r.value, r.correct, r.valid) for r in rewards] == [
        (1.0, True, True), (0.0, False, True), (0.0, False, True),
    ]  # fmt: skip


def test_the_source_is_prepared(recipes, tmp_path):
    source = tmp_path / "files"
    source.mkdir()
    for name in ("a_7", "b_12", "c_x"):
        (source / f"{name}.png").write_bytes(picture(40, 40, seed=len(name)))
    done = cli(
        "prepare", f"{recipes}/source.py:rows", "--source", source, "--out", tmp_path / "data",
        "--holdout", "0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples = store.load(tmp_path / "data", "train")
    assert sorted((s.id, s.answer) for s in samples) == [("a_7", "7"), ("b_12", "12")]
    assert "no number in the file's name" in done.stdout


def dual_clip(ratio: float, advantage: float, *overrides: str, recipes: Path):
    """Return d loss / d log pi of one token with weight 1."""
    config = load(None, [f"objective={recipes}/loss.py:dual_clip", *overrides])
    logprobs = torch.tensor([math.log(ratio)]).requires_grad_()
    one = torch.ones(1)
    inputs = LossInputs(
        logprobs, torch.zeros(1), advantage * one, one, torch.ones(1, dtype=torch.long)
    )
    objectives.build(config).loss(inputs).loss.backward()
    return logprobs.grad.item()


def test_the_objective_has_its_option(recipes):
    # A > 0: r A inside 1.2, nothing beyond; A < 0: r |A| up to delta, nothing beyond
    assert dual_clip(1.1, 2.0, recipes=recipes) == pytest.approx(-2.2)
    assert dual_clip(1.3, 2.0, recipes=recipes) == 0
    assert dual_clip(2.5, -1.0, recipes=recipes) == pytest.approx(2.5)
    assert dual_clip(3.5, -1.0, recipes=recipes) == 0
    assert dual_clip(3.5, -1.0, "dual_clip.delta=4", recipes=recipes) == pytest.approx(3.5)
    resolved = objectives.resolve(load(None, [f"objective={recipes}/loss.py:dual_clip"]))
    assert resolved.objective_options == {"low": 0.2, "high": 0.2, "delta": 3.0}
    with pytest.raises(ConfigError, match=r"dual_clip\.detla.*dual_clip\.delta"):
        dual_clip(1.0, 1.0, "dual_clip.detla=4", recipes=recipes)
    with pytest.raises(ConfigError, match=r"dual_clip\.delta=0\.5"):
        dual_clip(1.0, 1.0, "dual_clip.delta=0.5", recipes=recipes)


def test_the_benchmark_scores(recipes, tmp_path):
    rows = [
        {"model": "m", "problem_id": str(i), "answer": "4", "response": text}
        for i, text in enumerate(("2 + 2 is 4", "2 + 2 is 5", ""))
    ]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = cli(
        "score", f"{recipes}/bench.py:BENCHMARK", "--responses", responses,
        "--out", tmp_path / "scored.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").open(encoding="utf-8")]
    assert [row["correct"] for row in scored] == [True, False, False]
    assert json.loads(done.stdout.splitlines()[-1])["accuracy"] == {"m": pytest.approx(1 / 3)}


def test_the_generator_samples(recipes, tiny_folder, assets, renderer):
    config = tiny_config(tiny_folder, f"generator.backend={recipes}/engine.py:Engine")
    generator = build(config, assets, seed=0)
    engine = SampleEngine(generator, renderer)
    samples = [make_sample([(32, 32)], name="a"), make_sample(name="b")]
    (groups,) = sample_and_grade(engine, samples, SamplingParams(2, 1.0, 4), [1, 2])
    assert [len(group.rollouts) for group in groups] == [2, 2]
    assert generator.sampled == 4
    generator.close()


def test_the_family_recipe_lists_what_a_family_has():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("### A model family\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.M)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    members = {*Family.__annotations__, *(n for n in vars(Family) if not n.startswith("_"))}
    assert sorted(listed) == sorted(members | {"layer_types"})
    named = re.findall(r"`((?:sapo_vl|tests|scripts)/[\w/.]+)`", section)
    assert len(named) == 6
    assert [path for path in named if not (ROOT / path).exists()] == []
