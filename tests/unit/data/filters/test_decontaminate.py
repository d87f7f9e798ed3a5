"""Decontamination: copies are found after resizing, compression, cutting and light edits."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from random import Random

import numpy as np
import pytest
from helpers import SHARED, cli, make_sample
from PIL import Image, ImageDraw

from sapo_vl.data import store
from sapo_vl.data.images import open_image

pytest.importorskip("imagehash")
from bench.data_speed import disturbed, planted

from sapo_vl.data.filters.decontaminate import Index, image_hash, trimmed

RAW = SHARED / "raw"
TEXT = (
    "<image>In the triangle ABC the angle at A is 40 degrees and the side AB has the length 12, "
    "what is the length of the side BC rounded to one decimal place?"
)


def drawing(seed, margin=0):
    rng = Random(seed)
    image = Image.new("RGB", (200 + 2 * margin, 160 + 2 * margin), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        ends = [(margin + rng.randint(0, 199), margin + rng.randint(0, 159)) for _ in range(2)]
        draw.line(ends, fill="black", width=2)
    return image


def encoded(image, kind="PNG", **options):
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def sample(number, text=TEXT, image=None):
    image = encoded(image or drawing(number))
    return replace(make_sample(((8, 8),), number, name=f"s{number}"), problem=text, images=(image,))


def test_white_margins_do_not_count():
    bits = np.bitwise_count(image_hash(drawing(1)) ^ image_hash(drawing(1, margin=60))).sum()
    assert bits <= 4
    assert trimmed(Image.new("RGB", (9, 9), "white")).size == (9, 9)


def test_what_decides():
    short = "<image>Find x."
    index = Index([sample(0), sample(1, short), sample(2, short)])
    near = index.match(replace(sample(1, "<image>Quite another question?"), id="q"))
    assert (near.id, near.other, near.image) == ("q", "noise/s1", 0)
    assert index.match(sample(7, short)) is None  # the same short text, another picture
    long = index.match(sample(8, TEXT.replace("12", "13")))
    assert (long.other, long.image) == ("noise/s0", None)
    assert long.text > 0.75
    assert long.reason == "noise/s0 (text 0.90, no similar image)"
    assert index.match(sample(9, "<image>How many lines are there in the picture?")) is None
    assert index.match(make_sample((), text=TEXT.replace("<image>", ""))).other == "noise/s0"


def test_copies_of_drawings_are_found():
    originals = [sample(n, "<image>Which point is nearest to B?") for n in range(20)]
    index = Index(originals)
    rng = Random(0)
    for original in originals:
        assert index.match(disturbed(original, rng)).other == f"noise/{original.id}"


def test_the_disturbance_is_the_stated_one():
    original = sample(3)
    copy = disturbed(original, Random(1))
    image = Image.open(BytesIO(copy.images[0]))
    assert image.format == "JPEG"
    assert image.size != open_image(original.images[0]).size
    assert copy.problem != original.problem
    assert copy.problem.count("<image>") == 1


@pytest.mark.skipif(not RAW.is_dir(), reason="the raw sample ../shared/raw is not here")
def test_planted_mathvision_items():
    result = planted(RAW, seed=0, copies=50, unrelated=150)
    assert result.matched >= 49
    assert result.false_positives == 0


def test_the_command_reports_both_ids(tmp_path):
    store.write(tmp_path / "eval", [replace(sample(n), split="test") for n in (1, 2)])
    store.write(tmp_path / "in", [replace(sample(2), id="leak"), sample(5, "<image>Which?")])
    done = cli(
        *("data", "decontaminate", tmp_path / "in", "--against", tmp_path / "eval"),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "a copy of an evaluation record: leak (noise/s2 (text 1.00, 0 bits))" in done.stdout
    (match,) = map(json.loads, (tmp_path / "out.matches.jsonl").read_text().splitlines())
    assert match == {"id": "leak", "other": "noise/s2", "text": 1.0, "image": 0}
    assert store.load(tmp_path / "out", "train").ids == ["s5"]
    again = cli(
        *("data", "decontaminate", tmp_path / "in", "--against", tmp_path / "in"),
        *("--out", tmp_path / "out"),
    )
    assert again.returncode == 2
    assert "holds a data set already" in again.stderr
    assert json.loads((tmp_path / "out.matches.jsonl").read_text()) == match
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
