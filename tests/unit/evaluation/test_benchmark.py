"""The benchmark command's work with a generator that needs no model: resume, controls, reports."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import make_sample, tiny_config

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation import benchmark
from sapo_vl.evaluation.benchmark import BenchmarkRequest, chosen_sets, in_training
from sapo_vl.evaluation.benchmarks import named
from sapo_vl.runs.lock import FolderLock
from sapo_vl.schema import Rollout

OWN = """
from helpers import make_sample
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, ExtractedAnswer, Judgement


def rows(folder):
    return [make_sample([(8 + i, 8)], seed=i, name=str(i)) for i in range(4)]


BENCHMARK = Benchmark(
    "sums",
    "Sums",
    rows,
    prompt=lambda sample: f"{sample.problem} Answer with the number.",
    extract=lambda response, draw: ExtractedAnswer(response.text.split()[-1]),
    judge=lambda response, value: Judgement(value == response.answer, "by text"),
    tables=("task",),
)
"""


class Sevens:
    """A generator whose answer is 7 for the prompts that have their own images."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate(self, requests):
        self.prompts += [request.prompt.sample.problem for request in requests]
        own = {make_sample([(8 + i, 8)], seed=i).images for i in range(4)}
        return [
            [Rollout(r.prompt, [1], f"{r.seed} {7 if r.prompt.files in own else 0}")]
            for r in requests
        ]

    def close(self):
        """End nothing."""


class Renderer:
    """A renderer that keeps the images, or drops them when they are to be blank."""

    def __init__(self, assets, data, blank=False) -> None:
        assert data.instruction == ""
        self.blank = blank

    def render(self, samples):
        return [
            SimpleNamespace(
                sample=sample,
                expanded_ids=[0] * (999_999 if "too long" in sample.problem else 5),
                images=[],
                files=() if self.blank else sample.images,
                opening="",
            )
            for sample in samples
        ]


ASSETS = SimpleNamespace(
    config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=256)),
    processor=SimpleNamespace(image_processor=SimpleNamespace(), chat_template=""),
)


@pytest.fixture
def generator(monkeypatch):
    made = Sevens()
    monkeypatch.setattr(benchmark, "build", lambda config, assets, seed: made)
    monkeypatch.setattr(benchmark, "open_assets", lambda path: ASSETS)
    monkeypatch.setattr(benchmark, "PromptRenderer", Renderer)
    return made


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "bench.py"
    file.write_text(OWN)
    return f"{file}:BENCHMARK"


def run(own, tmp_path, capsys, **options):
    request = BenchmarkRequest(
        [named(own)], tmp_path / "out", source=tmp_path, samples=2, **options
    )
    benchmark.main(tiny_config(tmp_path / "model"), request)
    lines = capsys.readouterr().out.splitlines()
    return lines, json.loads(lines[-1])["benchmarks"]["sums"]


def test_a_benchmark_of_the_users_own_from_prompt_to_report(own, generator, tmp_path, capsys):
    _, figures = run(own, tmp_path, capsys, controls=True)
    assert (figures["problems"], figures["responses"], figures["accuracy"]) == (4, 8, 1.0)
    gains = figures["vision_gain"]
    assert gains["blank"]["gain"] == gains["blank"]["with_image"] == 1.0
    assert gains["shuffled"]["problems"] == 4
    assert generator.prompts[0] == "<image>What is the sum? Answer with the number."
    out = tmp_path / "out"
    summary = json.loads((out / "sums" / "summary.json").read_text())
    assert summary["aggregates"]["task"]["sum"]["total"] == 8
    assert summary["aggregates"]["samples"]["avg@2"] == 1.0
    assert "| Sums |" in (out / "report.md").read_text()
    assert (out / "report.html").read_text().count("data:image/jpeg;base64,") == 4
    settings = json.loads((out / "sums" / "settings.json").read_text())
    assert (settings["seed"], settings["max_new_tokens"]) == (0, 16)


def test_an_interrupted_benchmark_resumes(own, generator, tmp_path, capsys):
    _, figures = run(own, tmp_path, capsys)
    file = tmp_path / "out" / "sums" / "responses.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:20])
    printed, again = run(own, tmp_path, capsys)
    assert "sums: 8 responses, 5 already stored" in printed
    assert file.read_text().splitlines(keepends=True) == lines
    assert again == figures
    with pytest.raises(ConfigError, match="temperature"):
        run(own, tmp_path, capsys, kind="policy")


def test_a_folder_of_other_weights_and_one_in_use_are_refused(own, generator, tmp_path, capsys):
    """Another model behind the same path must not report the first one's accuracy."""
    _, figures = run(own, tmp_path, capsys)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    asked = len(generator.prompts)
    with pytest.raises(ConfigError, match=r"weights='', not '[0-9a-f]{16}'"):
        run(own, tmp_path, capsys)
    (tmp_path / "model" / "model.safetensors").unlink()
    with FolderLock(tmp_path / "out", "--out"), pytest.raises(ConfigError, match=r"--out=.*in use"):
        run(own, tmp_path, capsys)
    assert len(generator.prompts) == asked
    assert run(own, tmp_path, capsys)[1] == figures
    prints = json.loads((tmp_path / "out" / "summary.json").read_text())["benchmarks"]["sums"]
    assert prints["fingerprint"].keys() == {"weights", "settings", "problems"}


def test_requests_that_are_refused_write_nothing(own, generator, tmp_path):
    config, out = tiny_config(tmp_path / "model"), tmp_path / "out"
    sums = named(own)
    for request, error, key in (
        (BenchmarkRequest([], out, source=tmp_path), ConfigError, "--benchmarks"),
        (BenchmarkRequest([sums, sums], out, source=tmp_path), ConfigError, "--benchmarks"),
        (BenchmarkRequest([sums], out, source=tmp_path, limit=0), ConfigError, "--limit"),
        (BenchmarkRequest([sums], out, source=tmp_path, samples=0), ConfigError, "--samples"),
        (BenchmarkRequest([sums], out, source=tmp_path, kind="x"), ConfigError, "--kind"),
        (BenchmarkRequest([sums], out, source=Path("/none")), DataError, "--source"),
    ):
        with pytest.raises(error, match=key):
            benchmark.main(config, request)
    assert not out.exists()


def test_benchmarks_in_training(own, generator, tmp_path):
    config = tiny_config(
        tmp_path / "model",
        f"evaluation.benchmarks=['{own}']",
        f"evaluation.source={tmp_path}",
        "evaluation.limit=3",
    )
    sets = chosen_sets(config)
    assert {name: len(part.problems) for name, part in sets.items()} == {"sums": 3}
    assert in_training(config, generator, ASSETS, sets) == {"sums": 1.0, "sums/not_asked": 0}
    with pytest.raises(ConfigError, match=r"evaluation\.source"):
        chosen_sets(tiny_config(tmp_path / "model", "evaluation.benchmarks=[mathvision]"))
    with pytest.raises(ConfigError, match=r"evaluation\.benchmarks.*mathvision"):
        chosen_sets(
            tiny_config(
                tmp_path / "model",
                "evaluation.benchmarks=[mathvison]",
                f"evaluation.source={tmp_path}",
            )
        )
