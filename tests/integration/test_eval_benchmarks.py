"""The tiny model through whole benchmarks: generation, resume, scoring, reports, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import SHARED, cli, tiny_config

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


@needs_raw
def test_a_random_model_on_every_layout_scores_no_more_than_chance(tiny_folder, tmp_path):
    run = evaluate(tiny_folder, tmp_path, "--limit", "12", benchmarks=LAYOUTS + ",aime24,hmmt25")
    assert run.returncode == 0, run.stderr[-2000:]
    summary = json.loads(run.stdout.splitlines()[-1])
    for name, figures in summary["benchmarks"].items():
        assert figures["problems"] == (10 if name == "geometry3k" else 12), name
        assert figures["ci95"][0] <= 0.25, (name, figures)  # no better than one option in four
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|/|\.)", page)
    assert "| MathVision |" in (tmp_path / "report.md").read_text()


def test_a_random_model_on_the_synthetic_split_scores_no_more_than_chance(tiny_folder):
    run = cli("evaluate", "--model", tiny_folder, "evaluation.problems=48", "evaluation.samples=2",
              timeout=600)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["problems"] == 48
    assert figures["ci95"][0] <= 0.1


@needs_raw
def test_stopped_evaluations_go_on_and_controls_are_measured(tiny_folder, tmp_path):
    options = ("--limit", "3", "--samples", "2", "--controls")
    whole = evaluate(tiny_folder, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr[-2000:]
    file = tmp_path / "whole" / "mathvision" / "responses.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    file.write_text("".join(lines[:4]) + lines[4][:30])
    again = evaluate(tiny_folder, tmp_path / "whole", *options)
    assert "6 responses, 4 already stored" in again.stdout
    assert file.read_text().splitlines(keepends=True) == lines
    assert again.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    gain = json.loads(again.stdout.splitlines()[-1])["benchmarks"]["superclevr"]["vision_gain"]
    assert set(gain) == {"blank", "shuffled"}
    assert gain["blank"]["problems"] == 3
    same = cli("compare", tmp_path / "whole", tmp_path / "whole")
    assert json.loads(same.stdout.splitlines()[-1])["benchmarks"]["mathvision"]["difference"] == 0
    rescored = cli(
        "score", "mathvision", "--responses", file, "--out", tmp_path / "again.jsonl"
    )  # fmt: skip
    assert json.loads(rescored.stdout.splitlines()[-1])["rows"] == 6


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


def test_a_benchmark_of_the_users_own(tiny_folder, tmp_path):
    file, out = tmp_path / "bench.py", tmp_path / "out"
    file.write_text(OWN)
    run = cli(
        "benchmark", "--model", tiny_folder, "--benchmarks", f"{file}:BENCHMARK", "--source",
        tmp_path, "--out", out, "--limit", "3", *SMALL, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1])["benchmarks"]["shapes"]["problems"] == 3
    rows = [json.loads(line) for line in (out / "shapes" / "responses.jsonl").open()]
    assert [row["problem_id"] for row in rows] == [row["problem_id"] for row in rows if row["gold"]]
    assert "Shapes" in (out / "report.md").read_text()


@needs_raw
def test_the_curve_in_training_leaves_the_random_state_alone(engine, assets, tiny_folder):
    import torch

    from sapo_vl.evaluation.benchmark import chosen_sets, in_training

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
