"""Problems from the hub's layout (written here) and from the original one (where it is at hand)."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import SHARED, picture

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import BENCHMARKS
from sapo_vl.evaluation.benchmarks.protocol import read_response
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
        (problem,) = BENCHMARKS[name].problems(source)
        assert problem.prompt.count(IMAGE_MARK) == len(problem.images) >= 1
        assert all(data == PNG for data in problem.images)
        assert problem.gold in ("B", "blue", ["$B$"])
    if problem.options:
        assert list(problem.options) == list("ABC"[: len(problem.options)])


def test_a_column_that_is_missing_is_named(tmp_path):
    file, row = HUB["emma"]
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{k: v for k, v in row.items() if k != "answer"}]), path)
    with pytest.raises(DataError, match="the column 'answer' is missing"):
        list(BENCHMARKS["emma"].problems(tmp_path))


def test_a_key_that_is_missing_and_a_picture_that_is_none_are_named(tmp_path):
    pytest.importorskip("torch")
    from sapo_vl.evaluation.benchmark import load

    (tmp_path / "data").mkdir()
    (tmp_path / "1.jpg").write_bytes(b"no picture")
    row = {"id": "1", "question": "q", "options": [], "answer": "2", "image": "1.jpg", "level": 1}
    file = tmp_path / "data" / "test.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"mathvision: a record in --source .* lacks 'subject'"):
        load(BENCHMARKS["mathvision"], tmp_path, None)
    file.write_text(json.dumps(row | {"subject": "s"}))
    with pytest.raises(DataError, match="mathvision 1: "):
        load(BENCHMARKS["mathvision"], tmp_path, None)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_that_is_not_there_says_what_is_looked_for(name, tmp_path):
    with pytest.raises(DataError, match=f"{name}: --source .* has none of") as error:
        list(BENCHMARKS[name].problems(tmp_path))
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
def test_the_original_layout_and_its_own_gold_answers(name):
    """Every problem is read; its gold answer, written as a response, is right."""
    benchmark = BENCHMARKS[name]
    problems = list(benchmark.problems(RAW))
    assert len(problems) == len({p.key for p in problems}) == ORIGINAL[name]
    refused = []
    for problem in problems[:120]:
        gold = ", ".join(str(problem.gold).split("\n"))
        if name == "dynamath":
            response = json.dumps({"solution": "", "short answer": gold})
        else:
            response = FORMS.get(
                problem.question_type or name, FORMS.get(name, "\\boxed{{{}}}")
            ).format(gold)
        row = read_response(problem.record("m", 0, response), name)
        found = benchmark.extract(row, random.Random(0))
        if benchmark.judge(row, found.value).correct is not True:
            refused.append((problem.key, gold))
    assert len(refused) <= 0.02 * len(problems), refused
