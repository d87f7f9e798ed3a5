"""Each source on a few made rows in the very format of its data set, as a folder of parquet."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import picture

from sapo_vl.data import Dropped
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.readers.choices import split_choices
from sapo_vl.data.readers.tables import read_rows
from sapo_vl.data.readers.text import QUESTION_IN_IMAGE, gold_type
from sapo_vl.data.records import validate
from sapo_vl.data.source_loader import source_function
from sapo_vl.errors import DataError

PNG = picture(40, 33)
OTHER = picture(36, 36, 1)
IMAGE = {"bytes": PNG, "path": "1.png"}
IMAGE_2 = {"bytes": OTHER, "path": None}


def parquet(folder, rows, name="train-00000-of-00001"):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def read(name, source):
    records = list(source_function(name)(source))
    for record in records:
        if not isinstance(record, Dropped):
            validate(record)
    return records


def test_geometry3k_of_the_hub(tmp_path):
    row = {"images": [IMAGE], "problem": "<image>Find $x$.", "answer": "4 \\sqrt { 3 }"}
    parquet(tmp_path / "data", [row])
    parquet(tmp_path / "data", [row, row | {"answer": "12"}], "test-00000-of-00001")
    train, first, second = read("geometry3k", tmp_path)
    assert (train.split, first.split, second.answer) == ("train", "test", "12")
    assert (train.id, second.id) == ("geometry3k-train-0", "geometry3k-test-2")
    assert train.images == (PNG,)
    assert train.answer_type == "expression"


def test_mathvista(tmp_path):
    plain = {
        "pid": "1",
        "question": "How long?",
        "image": "images/1.jpg",
        "decoded_image": IMAGE,
        "choices": None,
        "unit": "cm",
        "precision": 1.0,
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "metadata": {"task": "geometry problem solving", "grade": "high school"},
        "query": "Hint: ..",
    }
    choice = plain | {"pid": "2", "choices": ["(A) 3", "4"], "answer": "4", "unit": None}
    rows = [plain, choice, plain | {"pid": "3", "choices": ["x"], "answer": "z"}]
    parquet(tmp_path / "data", rows, "testmini-00000-of-00001")
    one, two, bad = read("mathvista", tmp_path)
    assert one.problem == "<image>\nHow long? (Unit: cm)"
    assert (one.answer, one.precision, one.unit, one.split) == ("1.2", 1, "cm", "test")
    assert (two.answer, two.answer_type, two.metadata["published"]["answer"]) == (
        "B",
        "choice",
        "4",
    )
    assert two.problem.endswith("(A) (A) 3\n(B) 4")
    assert bad.reason.startswith("the answer is none of the choices: 'z'")
    local = tmp_path / "git"
    (local / "images").mkdir(parents=True)
    (local / "images" / "1.jpg").write_bytes(PNG)
    entries = {r["pid"]: {k: v for k, v in r.items() if k != "decoded_image"} for r in rows}
    (local / "testmini.json").write_text(json.dumps(entries))
    assert read("mathvista", local)[:2] == [one, two]


def test_mmmu_and_mmmu_pro(tmp_path):
    row = {
        "id": "validation_Art_1",
        "question": "Compare <image 2> with <image 1>, then <image 2>.",
        "options": "['<image 3>', \"it's\"]",
        "answer": "B",
        "image_1": IMAGE,
        "image_2": IMAGE_2,
        "image_3": IMAGE,
        "image_4": None,
        "question_type": "multiple-choice",
        "topic_difficulty": "Easy",
        "img_type": "['Paintings']",
        "subfield": "Drawing",
    }
    opened = row | {"id": "validation_Art_2", "options": "[]", "answer": "['2.5', '5/2']"}
    parquet(tmp_path / "Art", [row, opened], "validation-00000-of-00001")
    one, two = read("mmmu", tmp_path)
    assert one.problem == "Compare <image> with <image>, then image 2.\n(A) <image>\n(B) it's"
    assert one.images == (OTHER, PNG, PNG)
    assert (one.answer, one.choices, one.task) == ("B", ("<image 3>", "it's"), "Drawing")
    assert (two.answer, two.metadata["published"]["answer"]) == ("2.5", ["2.5", "5/2"])
    assert two.problem.startswith("<image>\n")  # the third picture has no tag here

    flat = parquet(tmp_path / "flat", [row, opened], "validation-00000-of-00001")
    assert len(read("mmmu", flat)) == 2  # a folder without subjects is read once, not 30 times

    pro = tmp_path / "pro"
    standard = {k: v for k, v in row.items() if k != "subfield"} | {"subject": "Art"}
    parquet(pro / "standard (10 options)", [standard], "test-00000-of-00001")
    screen = {"id": "test_Art_9", "image": IMAGE, "options": "['x', 'y']", "answer": "A"}
    parquet(pro / "vision", [screen | {"subject": "Art"}], "test-00000-of-00001")
    one, two = read("mmmu_pro", pro)
    assert (one.id, one.task) == ("mmmu_pro-standard-validation_Art_1", "Art")
    assert two.problem == f"<image>\n{QUESTION_IN_IMAGE}"
    assert (two.answer, two.choices) == ("A", ("x", "y"))


def test_emma(tmp_path):
    row = {
        "pid": "math_1",
        "question": "Which completes <image_1>?",
        "options": ["A", "B"],
        "answer": "B",
        "image_1": IMAGE,
        "image_2": None,
        "subject": "Math",
        "category": "2D",
        "task": "",
        "type": "Multiple Choice",
        "source": "s",
        "context": "Look.",
    }
    parquet(tmp_path / "Math", [row, row | {"pid": "m2", "options": [], "answer": "7"}], "test-0")
    one, two = read("emma", tmp_path)
    assert one.problem == "Look.\nWhich completes <image>?"
    assert (one.answer, one.choices) == ("B", ("A", "B"))
    assert (two.answer, two.answer_type) == ("7", "number")


def test_answers_in_tags(tmp_path):
    rows = [
        {"image": IMAGE, "problem": "How many?", "solution": "<answer> 3 </answer>"},
        {"image": IMAGE, "problem": "How many?", "solution": "<answer> 3"},
    ]
    parquet(tmp_path, rows)
    good, bad = read("clevr_count", tmp_path)
    assert (good.id, good.answer, good.answer_type) == ("clevr_count-0", "3", "count")
    assert good.problem == "<image>\nHow many?"
    assert bad.reason.startswith("the solution's <answer> is never closed")
    many = [{"images": [IMAGE], "problem": "<image>How many?", "answer": "3"}]
    assert read("clevr_count", parquet(tmp_path / "b", many))[0].problem == "<image>How many?"

    rows = [{"image": IMAGE, "problem": "Angle?", "solution": "<answer> 140° </answer>"}]
    (angle,) = read("geoqa", parquet(tmp_path / "c", rows))
    assert (angle.answer, angle.dataset) == ("140°", "geoqa")

    text = "<think>so 2 < 3</think>\n\n<answer>B. 4</answer>"
    row = {"image": IMAGE, "problem": "Find x. A. 3 B. 4", "solution": text}
    row |= {"original_question": "Find x.", "original_answer": "B"}
    (lettered,) = read("open_r1", parquet(tmp_path / "d", [row]))
    assert (lettered.answer, lettered.answer_type, lettered.choices) == ("B", "choice", ("3", "4"))


def test_mmk12_for_the_trainer(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(PNG)
    content = [
        {"type": "image", "image": "file:///nowhere/0.png"},
        {"type": "text", "text": "How many?"},
    ]
    message = json.dumps([{"role": "user", "content": content}])
    line = {"id": "0", "message": message, "answer": "$$6$$."}
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(line) + "\n")
    (sample,) = read("mmk12", file)
    assert (sample.problem, sample.answer, sample.split) == ("<image>How many?", "6", "train")
    rows = [{"id": "a", "question": "How many?", "answer": "6", "image": IMAGE, "subject": "math"}]
    (sample,) = read("mmk12", parquet(tmp_path / "hub", rows))
    assert (sample.images, sample.split) == ((PNG,), "train")


def test_virl39k(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    row = {
        "question": "<image>Which?",
        "answer": "\\boxed{B}",
        "PassRate_7BBase": 0.25,
        "category": "Geometric",
        "source": "Geometry3K",
        "qid": "g-1",
        "image": ["images/a.png"],
    }
    parquet(tmp_path, [row, row | {"qid": "g-2", "answer": "\\boxed{\\frac{1}{2}}"}], "39Krelease")
    one, two = read("virl39k", tmp_path)
    assert (one.answer, one.answer_type, one.metadata["PassRate_7BBase"]) == ("B", "choice", 0.25)
    assert (two.answer, two.answer_type) == ("\\frac{1}{2}", "number")


def test_chartqa(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "png").mkdir(parents=True)
        (tmp_path / split / "png" / "a.png").write_bytes(PNG)
        rows = [{"imgname": "a.png", "query": "How many?", "label": "14"}]
        (tmp_path / split / f"{split}_human.json").write_text(json.dumps(rows))
    one, two = read("chartqa", tmp_path)
    assert (one.id, one.task, one.split) == ("chartqa-train-0", "human", "train")
    assert (two.id, two.split) == ("chartqa-test-1", "test")
    rows = [{"image": IMAGE, "query": "Which?", "label": ["Brazil"], "human_or_machine": 1}]
    (hub,) = read("chartqa", parquet(tmp_path / "hub", rows, "val-0"))
    assert (hub.answer, hub.answer_type, hub.task) == ("Brazil", "text", "augmented")


def test_trainers_formats(tmp_path):
    easy = [{"images": [IMAGE], "problem": "<image>Find $x$.", "answer": "3"}]
    easy.append({"images": [], "problem": "1 + 1?", "answer": "2"})
    one, two = read("easyr1", parquet(tmp_path / "easy", easy))
    assert (one.problem, one.images, two.images) == ("<image>Find $x$.", (PNG,), ())

    verl = {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "user", "content": "<image>Find x. Think in <think> tags."}],
        "images": [IMAGE],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "3"},
        "extra_info": {"split": "test", "index": 0, "answer": "3", "question": "<image>Find x."},
    }
    (one,) = read("verl", parquet(tmp_path / "verl", [verl]))
    assert (one.problem, one.answer, one.split) == ("<image>Find x.", "3", "test")
    del verl["extra_info"]
    (one,) = read("verl", parquet(tmp_path / "verl2", [verl]))
    assert one.problem == "<image>Find x. Think in <think> tags."

    parts = [{"type": "image", "text": None}, {"type": "text", "text": "Find x."}]
    trl = {"prompt": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                      {"role": "user", "content": parts}]}  # fmt: skip
    trl |= {"images": [IMAGE], "solution": "<answer>3</answer>"}
    (one,) = read("trl", parquet(tmp_path / "trl", [trl]))
    assert (one.problem, one.answer) == ("Be brief.\n\n<image>Find x.", "3")

    chat = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}]
    (tmp_path / "a.png").write_bytes(PNG)
    file = tmp_path / "llava.json"
    rows = [
        {"id": "7", "image": "a.png", "conversations": chat},
        {"id": "8", "conversations": chat[:1]},
    ]
    file.write_text(json.dumps(rows))
    one, bad = read("sharegpt", file)
    assert (one.id, one.problem, one.answer) == ("sharegpt-7", "<image>\nHow many?", "3")
    assert bad.id == "sharegpt-8"
    assert "How many?" in bad.reason


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a":', "a.jsonl:2: "),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: "),
        ("a.json", b"5", "neither a list nor an object of records"),
        ("a.json", b"[1]", "record 0: "),
        ("a.json", b"{", "JSON"),
        ("a.csv", b"a,b\n1\n", "a.csv:2: "),
        ("a.json", b"\xff\xfe\xfd", "UTF-8"),
        ("a.parquet", b"PAR1 and no more", "row 0"),
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: "),
        ("a.json", b'{"a": [{}], "b": [{}, {}]}', "(a, b)"),
        ("a.xml", b"<a/>", ".parquet, .arrow, .jsonl"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(read_rows(file))
    assert str(file) in str(raised.value)
    assert words in str(raised.value)


def test_a_cut_parquet_is_named_and_leaves_nothing(tmp_path):
    rows = [{"problem": "?", "answer": "1", "images": [IMAGE]} for _ in range(40)]
    file = parquet(tmp_path, rows) / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet"):
        prepare("easyr1", PrepareOptions(tmp_path / "set", source=file, on_error="skip"))
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("4,656", "number"),
        ("-3.5", "number"),
        ("$$6$$", "number"),
        ("3/10", "number"),
        (r"\frac{1}{2}", "number"),
        ("= 2x", "expression"),
        ("y=x+1", "equation"),
        ("(1, 2)", "tuple"),
        ("(-2,1]", "interval"),
        ("[1,2]", "interval"),
        (r"-1, \sqrt{2}", "set"),
        (r"\sin x", "expression"),
        ("12 meters", "number"),
        ("B", "choice"),
        ("=", "text"),
    ],
)
def test_kinds_of_answers(text, kind):
    assert gold_type(text) == kind


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A. 1;B. 2; C. No correct answer", ("1", "2", "No correct answer")),
        ("Is it? (A) True (B)False (C)Can't say", ("True", "False", "Can't say")),
        ("A:40°\nB:60°", ("40°", "60°")),
        ("A man has 3. B", ()),
        ("U.S.A. and B.", ()),
    ],
)
def test_options_in_a_text(text, found):
    assert split_choices(text) == found


def test_olympiadbench(tmp_path):
    row = {
        "id": 7,
        "question": "Find x in <image_1>.",
        "final_answer": ["$3$"],
        "subject": "Math",
        "subfield": "Geometry",
        "is_multiple_answer": False,
        "answer_type": "Numerical",
        "unit": None,
        "error": None,
        "image_1": IMAGE,
        "context": "A triangle.",
    }
    name = "OE_MM_maths_en_COMP"
    (one,) = read("olympiadbench", parquet(tmp_path / name, [row], name).parent)
    assert (one.problem, one.answer) == ("A triangle.\nFind x in <image>.", "3")
    assert (one.answer_type, one.split, one.images) == ("number", "test", (PNG,))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="olympiadbench"):
        read("olympiadbench", empty)


def test_test_sets_of_r1v(tmp_path):
    from sapo_vl.data.sources import geoqa, superclevr

    (tmp_path / "r1v_prompts").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    for name, answer in ((geoqa.TEST_FILE, "140°"), (superclevr.R1V_FILE, 4)):
        line = {"image_path": "./a.png", "question": "Which?", "ground_truth": answer}
        (tmp_path / "r1v_prompts" / name).write_text(json.dumps(line) + "\n")
    (angle,) = geoqa.r1v_rows(tmp_path)
    assert (angle.id, angle.answer, angle.split) == ("geoqa-test-0", "140°", "test")
    (count,) = superclevr.r1v_rows(tmp_path)
    assert (count.id, count.answer, count.answer_type) == ("superclevr-r1v-a", "4", "count")
