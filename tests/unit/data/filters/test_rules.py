"""Filters by hand-computed numbers, passes over a data set, and the filter command."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import pytest
from helpers import cli, make_sample
from PIL import Image, ImageDraw

from sapo_vl.data import store
from sapo_vl.data.filters import rules
from sapo_vl.data.rewrite import RewriteOptions, rewrite
from sapo_vl.errors import ConfigError

pytest.importorskip("imagehash")


def sample(number, sizes=((64, 64),), **changes):
    return replace(make_sample(sizes, number, name=f"s{number}"), **changes)


@pytest.fixture
def prepared(tmp_path):
    samples = [sample(n) for n in range(6)]
    store.write(tmp_path / "in", [*samples[:4], *(replace(s, split="test") for s in samples[4:])])
    return tmp_path / "in"


def test_limits():
    assert rules.at_most_characters(23)(sample(0)) is None  # "<image>What is the sum?"
    assert rules.at_most_characters(22)(sample(0)) == "the text is over 22 characters: 23"
    tokens = rules.at_most_visual_tokens(4)  # 64 x 64 is 2 x 2 tokens
    assert tokens(sample(0)) is None
    assert tokens(sample(0, ((96, 64),))) == "the images are over 4 tokens: 6"
    assert rules.at_least_pixels(400)(sample(0, ((20, 20),))) is None
    assert rules.at_least_pixels(401)(sample(0, ((20, 20),))).endswith("401 pixels: 20x20")
    kinds = rules.answer_types(["choice"])
    assert kinds(sample(0)) == "the answer is not choice: number"
    with pytest.raises(ConfigError, match="did you mean 'choice'"):
        rules.answer_types(["coice"])


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
    report = rewrite(
        tmp_path / "in",
        tmp_path / "out",
        rules.Duplicates(),
        RewriteOptions("dedupe", stateful=True),
    )
    assert [s.id for s in store.iter_samples(tmp_path / "out")] == ["copy", "other"]
    assert report.dropped["a duplicate"].examples == ["s0 (of copy)"]


def test_a_pass_goes_on_where_it_was_interrupted(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("sapo_vl.data.rewrite.CHECKPOINT_RECORDS", 2)
    judged = []

    def record_filter(limit):
        def one(sample):
            if len(judged) == limit:
                raise KeyboardInterrupt
            judged.append(sample.id)
            return "odd" if int(sample.id[1:]) % 2 else None

        return one

    with pytest.raises(KeyboardInterrupt):
        rewrite(prepared, tmp_path / "out", record_filter(5), RewriteOptions("x"))
    assert not (tmp_path / "out").exists()
    assert judged == ["s4", "s5", "s0", "s1", "s2"]
    judged.clear()
    report = rewrite(prepared, tmp_path / "out", record_filter(99), RewriteOptions("x"))
    assert judged == ["s2", "s3"]  # four were behind the last checkpoint
    assert (report.read, report.kept) == (6, {"train": 2, "test": 1})
    assert report.dropped["odd"].count == 3
    assert [s.id for s in store.iter_samples(tmp_path / "out")] == ["s4", "s0", "s2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_commands_and_their_mistakes(prepared, tmp_path):
    done = cli("data", "filter", prepared, "--out", tmp_path / "o", "--max-visual-tokens", "4")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["kept"] == {"test": 2, "train": 4}
    for arguments, words in (
        (("filter", prepared, "--out", tmp_path / "p"), "--dedupe"),
        (("filter", prepared, "--out", tmp_path / "p", "--pass-rate"), "need --model"),
        (("stats", tmp_path), "not a prepared data set"),
        (("export", prepared, "--to", "ver", "--out", tmp_path / "p"), "did you mean 'verl'"),
    ):
        failed = cli("data", *arguments)
        assert failed.returncode == 2
        assert words in failed.stderr
