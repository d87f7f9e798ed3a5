"""MathVision from its original layout (the sample beside the repository) and as the hub has it."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO

import pytest
from helpers import SHARED
from PIL import Image

from sapo_vl.data import Dropped
from sapo_vl.data.records import validate
from sapo_vl.data.sources import mathvision
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

RAW = SHARED / "raw" / "mathvision"
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="the raw sample ../shared/raw is not here")


def row(number, **changes):
    plain = {
        "id": str(number),
        "question": "How many?\n<image1>",
        "options": [],
        "answer": "6",
        "solution": None,
        "level": 1,
        "subject": "counting",
        "image": f"images/{number}.jpg",
    }
    return plain | changes


@pytest.fixture
def layout(tmp_path):
    def make(**splits):
        (tmp_path / "data").mkdir()
        (tmp_path / "images").mkdir()
        for split, rows in splits.items():
            text = "".join(json.dumps(r) + "\n" for r in rows)
            (tmp_path / "data" / f"{split}.jsonl").write_text(text)
            for r in rows:
                Image.new("RGB", (4, 3)).save(tmp_path / r["image"])
        return tmp_path

    return make


def read(folder):
    return list(mathvision.rows(folder))


@needs_raw
def test_counts_of_the_raw_sample():
    records = read(RAW)
    samples = [r for r in records if isinstance(r, Sample)]
    dropped = [r for r in records if isinstance(r, Dropped)]
    assert (len(samples), len(dropped)) == (240, 64)
    assert all(d.reason.startswith(f"missing image file: {RAW}/images/") for d in dropped)
    assert Counter(s.answer_type for s in samples) == {"choice": 152, "number": 88}
    assert sum(bool(s.choices) for s in samples) == 151
    assert len({s.task for s in samples}) == 16
    for sample in samples:
        validate(sample)


@needs_raw
def test_known_rows_of_the_raw_sample():
    samples = {r.id: r for r in read(RAW) if isinstance(r, Sample)}
    daisy = samples["mathvision-5"]
    assert daisy.problem == "Which number do you have to write in the last daisy?\n<image>"
    assert (daisy.answer, daisy.answer_type, daisy.choices) == ("61", "number", ())
    assert daisy.metadata == {
        "split": "testmini",
        "published": {
            "problem_id": "5",
            "answer": "61",
            "question": "Which number do you have to write in the last daisy?\n<image1>",
            "choices": [],
            "question_type": "free_form",
            "tables": {"subject": "arithmetic", "level": 2},
        },
        "files": ["images/5.jpg"],
    }
    kittens = samples["mathvision-6"]
    assert (kittens.answer, kittens.answer_type) == ("D", "choice")
    assert kittens.choices == ("A", "B", "C", "D", "E")
    assert "(A)" not in kittens.problem  # its options are only letters


def test_options_are_listed_and_marks_keep_their_place(layout):
    folder = layout(
        test=[
            row(1, options=["$10$", "two"], answer="B"),
            row(2, options=["(A)", "(B)"], answer="A"),
            row(3, question="When <image1> walks <image2>, as <image1>"),
            row(4, question="What graph?", options=["<image1>", "<image2>"], answer="A"),
            row(5, answer="C"),
            row(6, answer=r"\frac{4}{3}"),
            row(7, answer="-1,200.5"),
        ]
    )
    samples = read(folder)
    assert [s.problem for s in samples[:4]] == [
        "How many?\n<image>\n(A) $10$\n(B) two",
        "How many?\n<image>",
        "When <image> walks <image2>, as <image1>",
        "<image>\nWhat graph?\n(A) <image1>\n(B) <image2>",
    ]
    kinds = ["choice", "choice", "number", "choice", "choice", "expression", "number"]
    assert [s.answer_type for s in samples] == kinds
    for sample in samples:
        validate(sample)


def test_testmini_comes_first_and_nothing_twice(layout):
    folder = layout(testmini=[row(2)], test=[row(1), row(2), row(3)])
    (folder / "images" / "3.jpg").unlink()
    first, second, third = read(folder)
    assert (first.id, first.metadata["split"]) == ("mathvision-2", "testmini")
    assert (second.id, second.metadata["split"]) == ("mathvision-1", "test")
    reason = f"missing image file: {folder}/images/3.jpg"
    assert third == Dropped("mathvision-3", reason, by_rule=True)


def test_one_split_alone_keeps_its_order(layout):
    folder = layout(testmini=[row(2)], test=[row(3), row(2)])
    assert [s.id for s in mathvision.rows(folder, ("test",))] == ["mathvision-3", "mathvision-2"]


def test_the_hub_gives_the_same_samples(layout, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [row(1, options=["$10$", "two"], answer="B"), row(2, options=["x", "y"], answer="A")]
    folder = layout(testmini=rows)
    pictures = [{"bytes": (folder / r["image"]).read_bytes(), "path": None} for r in rows]
    table = datasets.Dataset.from_list(
        [r | {"decoded_image": p} for r, p in zip(rows, pictures, strict=True)]
    ).cast_column("decoded_image", datasets.Image())
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("MathLLMs/MathVision") == read(folder)
    assert asked == [("MathLLMs/MathVision", "testmini"), ("MathLLMs/MathVision", "test")]


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"data/\{testmini,test\}\.jsonl"):
        read(tmp_path)
    with pytest.raises(DataError, match="neither a folder nor a hub name"):
        read(tmp_path / "gone")
    datasets = pytest.importorskip("datasets")

    def refuse(name, split):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"nobody/nothing .*no network"):
        read("nobody/nothing")


def test_pictures_are_stored_byte_for_byte(layout):
    folder = layout(test=[row(1)])
    (sample,) = read(folder)
    assert sample.images == ((folder / "images" / "1.jpg").read_bytes(),)
    assert Image.open(BytesIO(sample.images[0])).size == (4, 3)
