"""Each source on the real sample of its data set, in the original layout, beside the repository."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from helpers import SHARED

from sapo_vl.data import Dropped
from sapo_vl.data.prepare import source_function
from sapo_vl.data.records import validate
from sapo_vl.schema import Sample

RAW = SHARED / "raw"
pytestmark = pytest.mark.skipif(not RAW.is_dir(), reason="the raw sample ../shared/raw is not here")

# source: records read, samples, pictures, answer types
COUNTS = {
    "aime_hmmt": (120, 120, 6, {"number": 104, "expression": 13, "set": 3}),
    "dynamath": (300, 300, 300, {"number": 110, "choice": 100, "text": 70, "tuple": 20}),
    "geometry3k": (10, 10, 10, {"number": 8, "expression": 2}),
    "logicvista": (102, 101, 101, {"choice": 101}),
    "mmk12": (150, 150, 150, None),
    "superclevr": (463, 463, 463, {"text": 418, "count": 45}),
    "tabmwp": (297, 297, 297, {"choice": 157, "number": 140}),
    "wemath": (223, 223, 223, {"choice": 223}),
    "mathverse": (292, 292, 160, None),
}


def read(name):
    return list(source_function(name)(RAW / name))


def by_id(name):
    return {r.id: r for r in read(name) if isinstance(r, Sample)}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_validity(name):
    records = read(name)
    samples = [r for r in records if isinstance(r, Sample)]
    total, good, pictures, kinds = COUNTS[name]
    assert (len(records), len(samples)) == (total, good)
    assert sum(len(s.images) for s in samples) == pictures
    assert len({s.id for s in samples}) == good
    if kinds:
        assert Counter(s.answer_type for s in samples) == kinds
    for sample in samples:
        validate(sample)
        assert sample.dataset == name


def test_the_only_drop_is_the_record_without_an_answer():
    (dropped,) = [r for r in read("logicvista") if isinstance(r, Dropped)]
    assert dropped.by_rule
    assert dropped.reason == "the source has no answer to it"


def test_known_rows():
    circle = by_id("geometry3k")["geometry3k-11"]
    assert circle.problem.startswith("<image>In $\\odot X, A B=30, C D=30,$")
    assert (circle.answer, circle.answer_type, circle.task) == ("80", "number", "angle")
    assert circle.metadata["choices"] == ["30", "40", "60", "80"]

    gravel = by_id("tabmwp")["tabmwp-462"]
    assert (gravel.answer, gravel.unit, gravel.answer_type) == ("3.30", "$", "number")
    assert by_id("tabmwp")["tabmwp-54"].answer == "A"

    walk = by_id("wemath")["wemath-2steps_1-2steps_multi"]
    assert (walk.answer, walk.task, len(walk.choices)) == ("A", "2steps_multi", 5)
    assert walk.choices[0] == "First walk 3000m northeast, then walk 4000m east"
    assert walk.metadata["files"] == ["1-multi.png"]

    scenes = by_id("superclevr")
    assert scenes["superclevr-5-0"].answer == "no"
    assert scenes["superclevr-part_5-0"].answer == "yellow"

    aime = by_id("aime_hmmt")
    assert aime["aime_2024_I-2"].answer == "25"
    figure = aime["aime_2024_I-5"]
    assert len(figure.images) == 1
    assert "asy" not in figure.problem
    assert aime["hmmt_feb_2025-10"].answer_type == "set"


def test_versions_of_mathverse():
    samples = by_id("mathverse")
    assert samples["mathverse-web-606"].problem.endswith("shown in the image.")
    assert samples["mathverse-web-4"].images == ()
    tangent = samples["mathverse-web-33"]
    assert (tangent.answer, tangent.answer_type) == ("C, D", "multi_choice")
    assert tangent.choices[3] == r"$\tan (\pi-\theta)$"
    first = samples["mathverse-text-1"]
    assert (first.answer, first.choices) == ("D", ("40°", "60°", "120°", "140°"))


def test_rows_that_only_a_benchmark_needs():
    def published(name, **options):
        records = source_function(name)(RAW / name, **options)
        return [record.metadata["published"] for record in records]

    assert [p["answer"] for p in published("logicvista", unanswered=True)].count("") == 1
    variants = published("dynamath", by_problem=True)
    assert [p["variant"] for p in variants[:10]] == [str(v) for v in range(1, 11)]
    assert len({p["problem_id"] for p in variants[:10]}) == 1
    web = published("mathverse", one_release=True)
    assert len(web) == 192
    assert "problem_index" not in web[0]["tables"]
    counts = published("superclevr", questions="superCLEVR_questions_5.json", only_counts=True)
    assert {p["answer_type"] for p in counts} == {"integer"}
    contest = published("aime_hmmt", contests=["aime_2024_I"], text_only=True)
    assert len(contest) == 15
    assert contest[1]["answer"] == "025"
    assert "[asy]" in contest[4]["question"] or "<asy>" in contest[4]["question"]


def test_variants_of_dynamath():
    seeds = Counter(s.metadata["published"]["problem_id"] for s in by_id("dynamath").values())
    assert set(seeds.values()) == {10}
    assert len(seeds) == 30
    area = by_id("dynamath")["dynamath-64-v1"]
    assert (area.answer, area.precision, area.answer_type) == ("166.6667", 3, "number")


def test_the_generic_reader_on_another_layout():
    from sapo_vl.data.readers import generic

    file = RAW / "mmk12" / "eval" / "k12" / "k12.json"
    records = list(generic.rows(file, {"images": "image_path"}))
    assert len(records) == 150
    assert all(len(r.images) == 1 for r in records if isinstance(r, Sample))
    worked = [r for r in records if isinstance(r, Dropped)]  # "1,500 * 0.2 = 300. Thus, it is 300"
    assert [r.id.removeprefix("k12-") for r in worked] == [
        row["id"] for n, row in enumerate(json.loads(file.read_text())) if n in (8, 49, 107)
    ]
    assert all(r.reason.startswith("the gold answer is a worked solution") for r in worked)
    prompts = RAW / "superclevr" / "r1v_prompts" / "superclevr_test200_counting_problems.jsonl"
    gone = list(generic.rows(prompts))
    assert {type(r) for r in gone} == {Dropped}
    assert gone[0].reason.startswith("missing image file: ")
    assert gone[0].reason.endswith("counting_problems.jsonl, record 0)")
