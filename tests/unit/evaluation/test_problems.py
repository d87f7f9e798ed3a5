"""Problems from the hub's layout (written here) and from the original one (where it is at hand)."""

from __future__ import annotations

import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import SHARED, make_sample, picture

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import BENCHMARKS
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, problem_key
from sapo_vl.evaluation.benchmarks.rows import read_response
from sapo_vl.evaluation.problems import load, response_record
from sapo_vl.schema import IMAGE_MARK

RAW = SHARED / "raw"
PNG = picture(8, 8)
IMAGE = {"bytes": PNG, "path": "1.png"}

HUB = {
    "mathvista": ("data/testmini-00000.parquet", {
        "pid": "1", "query": "Hint: ..\nQuestion: Which?", "question": "Which?", "image": "1.jpg",
        "decoded_image": IMAGE, "choices": ["red", "blue"], "unit": None, "precision": None,
        "answer": "blue", "question_type": "multi_choice", "answer_type": "text",
        "metadata": {"source": "x", "skills": ["a"]}}),
    "mathvision": ("data/test-00000.parquet", {
        "id": "4", "question": "How many?\n<image1>", "options": ["A", "B"], "answer": "B",
        "image": "images/4.jpg", "decoded_image": IMAGE, "level": 2, "subject": "algebra"}),
    "wemath": ("data/testmini-00000.parquet", {
        "ID": "2steps_1", "key": "2steps_1", "question": "Which?", "option": "A. 3;B. 4",
        "answer": "B", "image_path": IMAGE, "knowledge concept": "Length;Area"}),
    "mmmu": ("Art/validation-00000.parquet", {
        "id": "validation_Art_1", "question": "See <image 2> and <image 1>.",
        "options": "['a', \"it's\"]", "answer": "B", "question_type": "multiple-choice",
        "image_1": IMAGE, "image_2": IMAGE, "image_3": None, "topic_difficulty": "Easy"}),
    "mmmu_pro": ("standard (10 options)/test-00000.parquet", {
        "id": "test_Art_1", "question": "Which <image 1>?", "options": "['a', 'b', 'c']",
        "answer": "B", "image_1": IMAGE, "subject": "Art", "topic_difficulty": "Easy"}),
    "emma": ("Math/test-00000.parquet", {
        "pid": "math_1", "question": "<image_1> Which?", "options": ["2", "4"], "answer": "B",
        "image_1": IMAGE, "image_2": None, "subject": "Math", "category": "c", "task": "t",
        "context": None}),
    "olympiadbench": ("OE_MM_maths_en_COMP/OE_MM_maths_en_COMP.parquet", {
        "id": 7, "question": "Find x in <image_1>.", "final_answer": ["$B$"], "subject": "Math",
        "is_multiple_answer": False, "answer_type": "Numerical", "unit": None, "error": None,
        "image_1": IMAGE, "subfield": "Geometry", "context": None}),
    "geometry3k": ("data/test-00000.parquet", {
        "images": [IMAGE], "problem": "<image>Find x.", "answer": "B", "id": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_the_hubs_layout(name, tmp_path):
    file, row = HUB[name]
    path = tmp_path / name / file
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), path)
    for source in (tmp_path, tmp_path / name):  # the parent folder, and the folder itself
        (problem,) = load(BENCHMARKS[name], source, None)
        assert problem.problem.count(IMAGE_MARK) == len(problem.images) >= 1
        assert all(data == PNG for data in problem.images)
        published = problem.metadata["published"]
        assert published["answer"] in ("B", "blue", ["$B$"])
        assert problem.id == problem_key(published["problem_id"], published.get("variant"))


def test_a_column_that_is_missing_is_named(tmp_path):
    file, row = HUB["emma"]
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{k: v for k, v in row.items() if k != "answer"}]), path)
    with pytest.raises(DataError, match=r"emma-math_1.*'answer'"):
        load(BENCHMARKS["emma"], tmp_path, None)


def test_records_that_cannot_be_used_are_named(tmp_path):
    """A missing key, a missing image and bytes that are no image: never a part of the problems."""
    (tmp_path / "data").mkdir()
    row = {"id": "1", "question": "q", "options": [], "answer": "2", "image": "1.jpg", "level": 1}
    file = tmp_path / "data" / "test.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"mathvision-1.*'subject'"):
        load(BENCHMARKS["mathvision"], tmp_path, None)
    file.write_text(json.dumps(row | {"subject": "s"}))
    with pytest.raises(DataError, match=r"mathvision-1.*1\.jpg"):
        load(BENCHMARKS["mathvision"], tmp_path, None)
    (tmp_path / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="mathvision 1: "):
        load(BENCHMARKS["mathvision"], tmp_path, None)
    (tmp_path / "1.jpg").write_bytes(PNG)
    file.write_text(2 * (json.dumps(row | {"subject": "s"}) + "\n"))
    assert len(load(BENCHMARKS["mathvision"], tmp_path, None)) == 1  # the source reads an id once


@pytest.mark.parametrize("kind", ["device", "fifo", "outside", "link", "folder"])
def test_a_benchmarks_picture_is_a_regular_file_below_its_source(tmp_path, kind):
    """/dev/zero would fill the memory, a fifo would wait for ever, a path may climb out."""
    (tmp_path / "secret.png").write_bytes(PNG)
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)
    name = {"device": "/dev/zero", "outside": "../secret.png", "folder": "data"}.get(kind, "1.jpg")
    if kind == "fifo":
        os.mkfifo(source / name)
    if kind == "link":
        (source / name).symlink_to(tmp_path / "secret.png")
    row = {"id": "1", "question": "q", "options": [], "answer": "2", "image": name, "level": 1}
    (source / "data" / "test.jsonl").write_text(json.dumps(row | {"subject": "s"}))
    with pytest.raises(DataError, match=r"mathvision.*1") as error:
        load(BENCHMARKS["mathvision"], source, None)
    assert "image" in str(error.value)


def make_benchmark(rows, prompt=lambda sample: sample.problem):
    return Benchmark("own", "Own", lambda folder: iter(rows), prompt, None, None)


def test_marks_and_ids_are_checked(tmp_path):
    sample = make_sample([(8, 8)], name="a")
    with pytest.raises(DataError, match="own a: 0 image marks and 1 images"):
        load(make_benchmark([sample], lambda sample: "no mark"), tmp_path, None)
    with pytest.raises(DataError, match="own a: "):
        load(make_benchmark([sample, sample]), tmp_path, None)
    with pytest.raises(DataError, match="own: "):
        load(make_benchmark([]), tmp_path, None)
    with pytest.raises(DataError, match="own a: the record lacks 'query'"):
        load(make_benchmark([sample], lambda sample: sample.metadata["query"]), tmp_path, None)


def test_a_plain_sample_is_a_problem(tmp_path):
    """A source without published fields is scored by the sample's own."""
    (problem,) = load(make_benchmark([make_sample([(8, 8)], name="a")] * 2), tmp_path, 1)
    response = read_response(response_record(problem, "m", 2, "so 7"), "x")
    assert (response.key, response.answer, response.sample, response.text) == ("a", "7", 2, "so 7")
    assert (response.question, response.meta) == ("What is the sum?", {"task": "sum"})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_that_is_not_there_says_what_is_looked_for(name, tmp_path):
    with pytest.raises(DataError, match=f"{name}: --source .* has none of") as error:
        load(BENCHMARKS[name], tmp_path, None)
    assert "\n" not in str(error.value)


ORIGINAL = {
    "mathverse": 192, "mathvision": 240, "wemath": 223, "logicvista": 102, "dynamath": 300,
    "superclevr": 45, "tabmwp": 297, "geometry3k": 10, "mmk12": 150, "aime24": 30, "aime25": 30,
    "hmmt24": 30, "hmmt25": 30,
}  # fmt: skip
FORMS = {
    "wemath": "<Answer>: <<{}>>",
    "superclevr": "<answer>{}</answer>",
    "tabmwp": "The answer is {}.",
    "logicvista": "The answer is {}.",
    "multi-choice": "The answer is {}.",
}


@pytest.mark.skipif(not RAW.is_dir(), reason="../shared/raw is not here")
@pytest.mark.parametrize("name", ORIGINAL)
def test_the_original_layout_and_its_own_answers(name):
    """Every problem is read; its answer, written as a response, is right."""
    benchmark = BENCHMARKS[name]
    problems = load(benchmark, RAW, None)
    assert len(problems) == ORIGINAL[name]
    refused = []
    for problem in problems[:120]:
        published = problem.metadata["published"]
        answer = ", ".join(str(published["answer"]).split("\n"))
        if name == "dynamath":
            text = json.dumps({"solution": "", "short answer": answer})
        else:
            form = FORMS.get(name, "\\boxed{{{}}}")
            text = FORMS.get(published.get("question_type") or name, form).format(answer)
        response = read_response(response_record(problem, "m", 0, text), name)
        extraction = benchmark.extract(response, random.Random(0))
        if benchmark.judge(response, extraction.value).correct is not True:
            refused.append((problem.id, answer))
    assert len(refused) <= 0.02 * len(problems), refused
