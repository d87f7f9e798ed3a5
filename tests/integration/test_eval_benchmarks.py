"""The tiny model through whole benchmarks: generation, resume, scoring, reports, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import SHARED, cli, tiny_config

from sapo_vl import config as configs
from sapo_vl.cli.options import find_config
from sapo_vl.data import synthetic
from sapo_vl.evaluation import benchmark, heldout
from sapo_vl.evaluation.benchmark import BenchmarkRequest, chosen_sets, in_training
from sapo_vl.evaluation.benchmarks import named

RAW = SHARED / "raw"
LAYOUTS = "mathvision,wemath,logicvista,dynamath,mathverse,superclevr,tabmwp,geometry3k,mmk12"
pytestmark = pytest.mark.slow
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="../shared/raw is not here")
SMALL = ("rollout.max_new_tokens=12", "data.max_pixels=16384", "model.dtype=float32")


def evaluate(folder: Path, out: Path, *more: str, benchmarks: str = "mathvision,superclevr"):
    return cli(
        "benchmark", "--model", folder, "--benchmarks", benchmarks, "--source", RAW, "--out", out,
        *more, *SMALL, timeout=900,
    )  # fmt: skip


OWN = """
from sapo_vl.data import synthetic
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement

BENCHMARK = Benchmark(
    name="shapes",
    title="Shapes",
    rows=lambda folder: synthetic.rows(seed=0, split="test", count=4),
    prompt=lambda sample: f"{sample.problem}\\nOne word.",
    extract=lambda response, draw: ExtractedAnswer(response.text[:1]),
    judge=lambda response, value: Judgement(value == response.answer, "by text"),
    tables=("task",),
)
"""


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """Return the command's output and folder: every layout, and a benchmark of the user's own."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "bench.py").write_text(OWN)
    names = f"{LAYOUTS},aime24,hmmt25,{folder}/bench.py:BENCHMARK"
    run = evaluate(tiny_folder, folder / "out", "--limit", "8", benchmarks=names)
    assert run.returncode == 0, run.stderr[-2000:]
    return run, folder / "out"


@pytest.fixture
def in_process(monkeypatch, engine):
    """Let the commands' code use the session's engine instead of one more."""
    for module in (benchmark, heldout):
        monkeypatch.setattr(module, "build", lambda config, assets, seed: engine)
    monkeypatch.setattr(engine, "close", lambda: None)


@needs_raw
def test_a_random_model_on_every_layout_scores_no_more_than_chance(whole):
    run, out = whole
    summary = json.loads(run.stdout.splitlines()[-1])
    assert len(summary["benchmarks"]) == 12
    for name, figures in summary["benchmarks"].items():
        assert figures["problems"] == (4 if name == "shapes" else 8), name
        assert figures["ci95"][0] <= 0.25, (name, figures)  # no better than one option in four
    page = (out / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|/|\.)", page)
    report = (out / "report.md").read_text()
    assert "| MathVision |" in report
    assert "| Shapes |" in report
    rows = [json.loads(line) for line in (out / "shapes" / "responses.jsonl").open()]
    assert [row["gold"] for row in rows] == [
        s.answer for s in synthetic.rows(seed=0, split="test", count=4)
    ]


def test_a_random_model_on_the_synthetic_split_scores_no_more_than_chance(
    tiny_folder, in_process, capsys
):
    options = ("evaluation.problems=48", "evaluation.samples=2", "evaluation.greedy=false")
    heldout.main(tiny_config(tiny_folder, *options), None)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["problems"] == 48
    assert figures["ci95"][0] <= 0.1


@needs_raw
def test_stopped_evaluations_go_on_and_controls_are_measured(
    tiny_folder, in_process, tmp_path, capsys
):
    config = configs.load(find_config("eval/benchmarks"), [*SMALL, f"model.path={tiny_folder}"])
    chosen = [named("mathvision"), named("superclevr")]
    request = BenchmarkRequest(chosen, tmp_path, RAW, samples=2, limit=3, controls=True)

    def run() -> str:
        benchmark.main(config, request)
        return capsys.readouterr().out

    whole = run()
    file = tmp_path / "mathvision" / "responses.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    file.write_text("".join(lines[:4]) + lines[4][:30])
    again = run()
    assert "6 responses, 4 already stored" in again
    assert file.read_text().splitlines(keepends=True) == lines
    assert again.splitlines()[-1] == whole.splitlines()[-1]
    gain = json.loads(again.splitlines()[-1])["benchmarks"]["superclevr"]["vision_gain"]
    assert set(gain) == {"blank", "shuffled"}
    assert gain["blank"]["problems"] == 3
    same = cli("compare", tmp_path, tmp_path)
    assert json.loads(same.stdout.splitlines()[-1])["benchmarks"]["mathvision"]["difference"] == 0
    rescored = cli("score", "mathvision", "--responses", file, "--out", tmp_path / "again.jsonl")
    assert json.loads(rescored.stdout.splitlines()[-1])["rows"] == 6


@needs_raw
def test_a_killed_command_goes_on_in_another_process(whole, tiny_folder):
    """The command's responses, cut as by a kill, are made again by a second one, bit for bit."""
    _, out = whole
    file = out / "mathvision" / "responses.jsonl"
    lines = file.read_text()
    file.write_text(lines[: len(lines) // 2])
    run = evaluate(tiny_folder, out, "--limit", "8", benchmarks="mathvision")
    assert run.returncode == 0, run.stderr[-2000:]
    assert re.search(r"mathvision: 8 responses, [1-7] already stored", run.stdout)
    assert file.read_text() == lines
    other = evaluate(tiny_folder, out, "--limit", "8", "run.seed=1", benchmarks="mathvision")
    assert other.returncode == 2
    assert "seed=0, not 1" in other.stderr


@needs_raw
def test_the_curve_in_training_leaves_the_random_state_alone(engine, assets, tiny_folder):
    import torch

    config = tiny_config(
        tiny_folder,
        "evaluation.benchmarks=[superclevr, aime24]",
        f"evaluation.source={RAW}",
        "evaluation.limit=5",
    )
    sets = chosen_sets(config)
    before = torch.random.get_rng_state()
    first = in_training(config, engine, assets, sets)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == in_training(config, engine, assets, sets)
    assert first.keys() == {n + end for n in sets for end in ("", "/not_asked")}
    assert 0 <= first["superclevr"] <= 1


@needs_raw
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--benchmarks", "mathvison"), "did you mean 'mathvision'"),
        (("--benchmarks", "mathvista"), "hf download AI4Math/MathVista"),
        (("--benchmarks", "geoqa"), "none of"),
        (("--model", "no/such"), "no/such"),
        (("--source", "/none"), "--source /none is not a folder"),
        (("--kind", "instuct"), "did you mean 'instruct'"),
        (("--limit", "0"), "--limit 0 is not a positive number"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tiny_folder, tmp_path, change, says):
    out = tmp_path / "out"
    run = evaluate(tiny_folder, out, *change)
    assert run.returncode == 2
    assert says in run.stderr
    assert not out.exists()


@needs_raw
def test_a_missing_image_names_record_and_file(tiny_folder, tmp_path):
    source = tmp_path / "mathvision"
    (source / "data").mkdir(parents=True)
    lines = (RAW / "mathvision" / "data" / "test.jsonl").read_text().splitlines()[:2]
    (source / "data" / "test.jsonl").write_text("\n".join(lines))
    run = cli(
        "benchmark", "--model", tiny_folder, "--benchmarks", "mathvision", "--source", source,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert run.returncode == 2
    number = json.loads(lines[0])["id"]
    assert f"mathvision-{number}: missing image file" in run.stderr
    assert not (tmp_path / "out").exists()
