"""Filters, mixtures, export, statistics and the contact sheet, by hand-computed numbers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from io import BytesIO

import pytest
from helpers import cli, make_sample
from PIL import Image, ImageDraw
from sapo_vl.training.mixing import Mixture, Pick

from sapo_vl.data import show, store
from sapo_vl.data.export import export
from sapo_vl.data.filters import rules as filters
from sapo_vl.data.prepare import source_function
from sapo_vl.data.rewrite import every, rewrite
from sapo_vl.data.stats import stats
from sapo_vl.errors import ConfigError, DataError

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


def test_mixtures_keep_their_shares_and_visit_everything_once():
    mixture = Mixture({"a": 12, "b": 5}, {"a": 3, "b": 1}, size=8, seed=1)
    assert mixture.places == {"a": 6, "b": 2}
    batches = [mixture.batch(n) for n in range(10)]
    for batch in batches:
        assert Counter(p.source for p in batch) == {"a": 6, "b": 2}
    first_epoch = [p.index for batch in batches[:2] for p in batch if p.source == "a"]
    assert sorted(first_epoch) == list(range(12))
    of_b = [p.index for n in range(5) for p in sorted(batches[n], key=str) if p.source == "b"]
    assert Counter(of_b) == dict.fromkeys(range(5), 2)  # 10 picks are two epochs of 5
    again = Mixture({"a": 12, "b": 5}, {"a": 3, "b": 1}, size=8, seed=1)
    assert again.batch(7) == batches[7]
    assert Mixture({"a": 12, "b": 5}, {"a": 3, "b": 1}, size=8, seed=2).batch(7) != batches[7]


def test_ranks_share_a_mini_batch_by_source():
    mixture = Mixture({"a": 100, "b": 100}, {"a": 0.75, "b": 0.25}, size=16)
    shares = [mixture.batch(3, rank, 4) for rank in range(4)]
    for share in shares:
        assert Counter(p.source for p in share) == {"a": 3, "b": 1}
    whole = sorted((p.source, p.index) for share in shares for p in share)
    assert whole == sorted((p.source, p.index) for p in mixture.batch(3))
    assert isinstance(shares[0][0], Pick)


def test_mixtures_that_cannot_be():
    with pytest.raises(ConfigError, match="holds no record of b"):
        Mixture({"a": 9, "b": 9}, {"a": 99, "b": 1}, size=8)
    with pytest.raises(ConfigError, match="ratios are for"):
        Mixture({"a": 9}, {"b": 1}, size=8)
    with pytest.raises(ConfigError, match="b: 0 records"):
        Mixture({"a": 9, "b": 0}, {"a": 1, "b": 1}, size=8)


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
