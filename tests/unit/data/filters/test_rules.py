"""Filters, export, statistics and the contact sheet, by hand-computed numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from helpers import cli, make_sample
from PIL import Image, ImageDraw

from sapo_vl.data import show, store
from sapo_vl.data.export import export
from sapo_vl.data.filters import rules as filters
from sapo_vl.data.prepare import source_function
from sapo_vl.data.rewrite import every, rewrite
from sapo_vl.data.stats import stats
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation import pass_rate as solve_filters
from sapo_vl.generator.base import SamplingParams
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Completion

pytest.importorskip("imagehash")


def sample(number, sizes=((64, 64),), **changes):
    return replace(make_sample(sizes, number, name=f"s{number}"), **changes)


@pytest.fixture
def prepared(tmp_path):
    samples = [sample(n) for n in range(6)]
    store.write(tmp_path / "in", [*samples[:4], *(replace(s, split="test") for s in samples[4:])])
    return tmp_path / "in"


def test_limits():
    assert filters.at_most_characters(23)(sample(0)) is None  # "<image>What is the sum?"
    assert filters.at_most_characters(22)(sample(0)) == "the text is over 22 characters: 23"
    tokens = filters.at_most_visual_tokens(4)  # 64 x 64 is 2 x 2 tokens
    assert tokens(sample(0)) is None
    assert tokens(sample(0, ((96, 64),))) == "the images are over 4 tokens: 6"
    assert filters.at_least_pixels(400)(sample(0, ((20, 20),))) is None
    assert filters.at_least_pixels(401)(sample(0, ((20, 20),))).endswith("401 pixels: 20x20")
    kinds = filters.answer_types(["choice"])
    assert kinds(sample(0)) == "the answer is not choice: number"
    with pytest.raises(ConfigError, match="did you mean 'choice'"):
        filters.answer_types(["coice"])


def test_duplicates_keep_the_held_out_copy(tmp_path):
    image = Image.new("RGB", (90, 70), "white")
    ImageDraw.Draw(image).polygon([(5, 60), (80, 50), (30, 8)], outline="black", width=3)
    png, jpeg = BytesIO(), BytesIO()
    image.save(png, "PNG")
    image.save(jpeg, "JPEG", quality=80)
    one = replace(sample(0), images=(png.getvalue(),))
    copy = replace(one, id="copy", images=(jpeg.getvalue(),), problem="<image> what is the SUM ?")
    other = replace(one, id="other", problem="<image>What is the difference?")
    store.write(tmp_path / "in", [one, other, replace(copy, split="test")])
    report = rewrite(tmp_path / "in", tmp_path / "out", "dedupe", filters.Duplicates())
    assert [s.id for s in every(tmp_path / "out")] == ["copy", "other"]
    assert report.dropped["a duplicate"].examples == ["s0 (of copy)"]


def test_a_pass_goes_on_where_it_was_interrupted(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("sapo_vl.data.rewrite.CHECKPOINT_RECORDS", 2)
    judged = []

    def judge(limit):
        def one(sample):
            if len(judged) == limit:
                raise KeyboardInterrupt
            judged.append(sample.id)
            return "odd" if int(sample.id[1:]) % 2 else None

        return one

    with pytest.raises(KeyboardInterrupt):
        rewrite(prepared, tmp_path / "out", "x", judge(5))
    assert not (tmp_path / "out").exists()
    assert judged == ["s4", "s5", "s0", "s1", "s2"]
    judged.clear()
    report = rewrite(prepared, tmp_path / "out", "x", judge(99))
    assert judged == ["s2", "s3"]  # four were behind the last checkpoint
    assert (report.read, report.kept) == (6, {"train": 2, "test": 1})
    assert report.dropped["odd"].count == 3
    assert [s.id for s in every(tmp_path / "out")] == ["s4", "s0", "s2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("form", ["easyr1", "trl", "verl"])
def test_exports_are_read_back(form, tmp_path):
    two = sample(1, ((40, 40), (50, 40)), problem="<image> and <image>: which?", answer="B")
    text = sample(2, (), problem="1 + 1?", answer="2", split="test")
    store.write(tmp_path / "in", [sample(0), two, text])
    assert export(tmp_path / "in", tmp_path / "out", form) == {"test": 1, "train": 2}
    with pytest.raises(DataError, match="exists already"):
        export(tmp_path / "in", tmp_path / "out", form)
    for split, kept in (("train", [sample(0), two]), ("test", [text])):
        back = list(source_function(form)(tmp_path / "out" / f"{split}.parquet"))
        for old, new in zip(kept, back, strict=True):
            assert (new.problem, new.images, new.answer) == (old.problem, old.images, old.answer)
    whole = source_function(form)(tmp_path / "out")
    assert sorted(s.split for s in whole) == ["test", "train", "train"]
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert table[1]["images"][1].size == (50, 40)


def test_stats_and_sheet(prepared, tmp_path):
    found = stats(prepared)
    assert found.splits == {"train": 4, "test": 2}
    assert found.tasks == {"noise: sum": 6}
    assert found.visual_tokens == {0: 6}
    assert "      6       0 to 63" in found.text()
    assert show.write(prepared, tmp_path / "sheet.html", limit=3) == 3
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;image&gt;What is the sum?" in page


class Scripted:
    """A generator whose first `number in the id` responses are right."""

    asked: list[str]

    def __init__(self):
        self.asked = []

    def generate(self, prompts, sampling, seeds):
        self.asked += prompts
        return [
            [
                Completion([1], np.zeros(1), "stop", "\\boxed{7}" if i < int(p[1:]) else "no")
                for i in range(sampling.n)
            ]
            for p in prompts
        ]


class Names:
    """A renderer that gives ids for prompts."""

    def render(self, samples):
        return [s.id for s in samples]


def test_pass_rates_are_cached_and_decide(tmp_path):
    engine, cache = Scripted(), tmp_path / "scores.jsonl"
    rubric = Rubric.from_terms([("boxed", 1.0)])
    solver = solve_filters.Solver(engine, Names(), rubric, SamplingParams(4, 1.0, 8))
    samples = [sample(n) for n in range(5)]
    solver.scores(samples[:2], cache, "s", seed=0)
    cache.write_text(cache.read_text() + '{"id": "s2", "ri')  # interrupted in a line
    scores = solver.scores(samples, cache, "s", seed=0)
    assert engine.asked == ["s0", "s1", "s2", "s3", "s4"]
    assert [scores[s.id].rate for s in samples] == [0, 0.25, 0.5, 0.75, 1]
    fit = solve_filters.within(scores, *solve_filters.parse_range("0:0.9"))
    assert [fit(s) for s in samples] == [
        "the pass rate is not over 0: 0",
        *[None] * 3,
        "the pass rate is over 0.9: 1",
    ]
    blind = solve_filters.needs_image(scores)
    assert [blind(s) is None for s in samples] == [True, True, True, False, False]
    with pytest.raises(DataError, match="made with other settings"):
        solver.scores(samples, cache, "t", seed=0)
    for wrong in ("0.9", "0.5:0.5", "a:b", "0:2"):
        with pytest.raises(ConfigError, match="pass-rate"):
            solve_filters.parse_range(wrong)


def test_commands_and_their_mistakes(prepared, tmp_path):
    done = cli("data", "filter", prepared, "--out", tmp_path / "o", "--max-visual-tokens", "4")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["kept"] == {"test": 2, "train": 4}
    for arguments, words in (
        (("filter", prepared, "--out", tmp_path / "p"), "name at least one rule"),
        (("filter", prepared, "--out", tmp_path / "p", "--pass-rate"), "need --model"),
        (("stats", tmp_path), "is no prepared data set"),
        (("export", prepared, "--to", "ver", "--out", tmp_path / "p"), "did you mean 'verl'"),
    ):
        failed = cli("data", *arguments)
        assert failed.returncode == 2
        assert words in failed.stderr
