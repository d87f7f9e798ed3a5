"""The generic reader: any columns, and every spelling of pictures, choices and answers."""

from __future__ import annotations

import base64
import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import picture

from sapo_vl.data import Dropped, store
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.readers import generic
from sapo_vl.data.records import validate
from sapo_vl.data.source_loader import source_function
from sapo_vl.errors import ConfigError, DataError

PNG = picture(40, 33)
OTHER = picture(36, 36, 1)
ROW = {"question": "How many?", "answer": "3"}


def _text(data):
    return base64.b64encode(data).decode()


def jsonl(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save(file, data=PNG):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def read(source, **columns):
    """The samples of a source, of which none is dropped."""
    found = list(generic.rows(source, columns))
    assert not [record for record in found if isinstance(record, Dropped)]
    for sample in found:
        validate(sample)
    return found


def test_generic_with_a_map(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(PNG)
    rows = [
        {"q": "How many?", "opts": ["one", "two"], "y": "two", "pic": "img/a.png", "lvl": 3},
        {"q": "How many?", "opts": ["one", "two"], "y": 0, "pic": base64.b64encode(PNG).decode()},
        {"q": "<image>?\n(A) one (B) two", "opts": "A. one; B. two", "y": "b", "pic": "img/a.png"},
        {"q": "How many?", "opts": None, "y": "x^2", "pic": None},
        {"q": "How many?", "opts": ["one"], "y": "six", "pic": "img/a.png"},
        {"q": "How many?", "opts": None, "y": "5", "pic": "img/gone.png"},
    ]  # fmt: skip
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    columns = "problem=q,answer=y,images=pic,choices=opts"
    report = prepare(
        "generic",
        PrepareOptions(tmp_path / "set", source=file, columns=columns, on_error="skip", holdout=0),
    )
    one, two, three, four = store.load(tmp_path / "set", "train")
    assert one.problem == "<image>\nHow many?\n(A) one\n(B) two"
    assert (one.id, one.answer, one.answer_type) == ("mine-0", "B", "choice")
    assert one.metadata == {"lvl": 3, "files": ["img/a.png"], "record": "mine.jsonl, record 0"}
    assert (two.answer, two.images, two.metadata["files"]) == ("A", (PNG,), [])
    assert (three.problem, three.answer) == ("<image>?\n(A) one (B) two", "B")
    assert (four.images, four.answer_type) == ((), "expression")
    assert {cause: d.examples for cause, d in report.dropped.items()} == {
        "the gold answer is none of the choices": [
            f"mine-4 ('six' is no letter, text or index from 0 of one ({file}, record 4))"
        ],
        "missing image file": [f"mine-5 ({tmp_path}/img/gone.png ({file}, record 5))"],
    }
    with pytest.raises(DataError, match=r"record 'mine-4'.*record 4\)"):
        prepare("generic", PrepareOptions(tmp_path / "x", source=file, columns=columns))
    assert not (tmp_path / "x").exists()
    with pytest.raises(DataError, match=r"no column 'qq' for problem; did you mean 'q'\?; columns"):
        prepare(
            "generic", PrepareOptions(tmp_path / "x", source=file, columns="problem=qq,answer=y")
        )
    with pytest.raises(DataError, match="no column is the answer: say --map answer=COLUMN"):
        prepare("generic", PrepareOptions(tmp_path / "x", source=file, columns="problem=q"))
    with pytest.raises(ConfigError, match=r"'anwser' is unknown; .*did you mean 'answer'"):
        prepare("generic", PrepareOptions(tmp_path / "x", source=file, columns="anwser=y"))


def test_generic_reads_csv_json_and_several_files(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["question", "answer", "image_1", "image_2"])
        writer.writerow(["<image_2> or <image_1>, 1\n2?", "1/2", *map(_text, (PNG, OTHER))])
    columns = {"images": "image_1+image_2"}
    (one,) = generic.rows(tmp_path / "a.csv", columns)
    assert (one.problem, one.images) == ("<image> or <image>, 1\n2?", (OTHER, PNG))
    assert one.answer_type == "number"
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "b.json").write_text(json.dumps({"k1": {"question": "?", "r": {"gold": "7"}}}))
    (folder / "c.json").write_text(json.dumps({"rows": [{"question": "?", "r": {"gold": "8"}}]}))
    one, two = generic.rows(folder, {"answer": "r.gold"})
    assert (one.id, one.answer, two.id, two.answer) == ("many-k1", "7", "many-c-0", "8")


@pytest.mark.parametrize(
    "cell",
    [
        _text(PNG),
        base64.urlsafe_b64encode(PNG).decode(),
        "data:image/png;base64," + _text(PNG),
        {"bytes": _text(PNG), "path": None},
        {"url": "data:image/png;base64," + _text(PNG)},
        "img/a.png",
        "img\\a.png",
        {"path": "img/a.png"},
        [{"path": "img/a.png"}, None],
        '["img/a.png"]',
        "['img/a.png']",
        "/of/another/machine/b.png",
    ],
)
def test_spellings_of_a_picture(cell, tmp_path):
    save(tmp_path / "img" / "a.png")
    save(tmp_path / "images" / "b.png")
    (sample,) = read(jsonl(tmp_path / "a.jsonl", ROW | {"image": cell}))
    assert (sample.problem, sample.images) == ("<image>\nHow many?", (PNG,))


@pytest.mark.parametrize(
    ("file", "cell"),
    [
        ("a.jsonl", "1.png"),  # images/ beside the file
        ("data/a.jsonl", "images/1.png"),  # beside the file's folder
        ("data/a.jsonl", "1.png"),
    ],
)
def test_pictures_in_a_folder_beside(file, cell, tmp_path):
    save(tmp_path / "images" / "1.png")
    (sample,) = read(jsonl(tmp_path / file, ROW | {"image": cell}))
    assert sample.images == (PNG,)


def test_pictures_of_another_data_set_are_not_found(tmp_path):
    save(tmp_path / "other" / "images" / "1.png")
    (gone,) = generic.rows(jsonl(tmp_path / "mine" / "a.jsonl", ROW | {"image": "images/1.png"}))
    assert gone.reason.startswith(f"missing image file: {tmp_path}/mine/images/1.png")


def test_a_column_that_the_first_record_lacks(tmp_path):
    save(tmp_path / "1.png")
    rows = [ROW, ROW | {"image": "1.png"}, ROW | {"images": ["1.png"]}]
    assert [len(s.images) for s in read(jsonl(tmp_path / "a.jsonl", *rows))] == [0, 1, 1]
    late = [ROW] * generic.PEEK + [ROW | {"image": "1.png"}]
    assert len(read(jsonl(tmp_path / "b.jsonl", *late))[-1].images) == 1
    mapped = read(jsonl(tmp_path / "c.jsonl", ROW, ROW | {"pic": "1.png"}), images="pic")
    assert [len(s.images) for s in mapped] == [0, 1]


def test_another_column_is_no_answer_of_a_record_without_one(tmp_path):
    rows = [ROW | {"solution": "so 3"}, {"question": "?", "solution": "so 4"}]
    _, second = generic.rows(jsonl(tmp_path / "a.jsonl", *rows))
    assert second.answer == ""


@pytest.mark.parametrize(
    "cell",
    [
        ["x", "y"],
        {"A": "x", "B": "y"},
        {"2": "y", "1": "x"},
        '["x", "y"]',
        '{"A": "x", "B": "y"}',
        "['x', 'y']",
        "A. x\nB. y",
        "A) x; B) y",
        "x\ny",
        ["A. x", "(B) y"],
        [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}],
        {"text": ["x", "y"], "label": ["A", "B"]},
    ],
)
def test_spellings_of_choices(cell, tmp_path):
    (sample,) = read(jsonl(tmp_path / "a.jsonl", ROW | {"choices": cell, "answer": "y"}))
    assert (sample.choices, sample.answer, sample.answer_type) == (("x", "y"), "B", "choice")
    assert sample.problem == "How many?\n(A) x\n(B) y"


@pytest.mark.parametrize("cell", ["x, y", "x|y", {"cat": True, "dog": False}, [["x"]], 3])
def test_choices_that_cannot_be_read_are_not_left_out(cell, tmp_path):
    (gone,) = generic.rows(jsonl(tmp_path / "a.jsonl", ROW | {"choices": cell}))
    assert gone.reason.partition(":")[0] in ("the choices cannot be read", "a choice has no text")


def test_choices_are_listed_unless_the_text_lists_them(tmp_path):
    rows = [
        {"question": "Of 1, 2 and 3, which?", "choices": ["1", "2", "3"], "answer": "2"},
        {"question": "Which? A. x B. y", "choices": ["x", "y"], "answer": "A"},
        {"question": "Which figure?", "choices": ["A", "B"], "answer": "B"},
    ]
    assert [s.problem for s in read(jsonl(tmp_path / "a.jsonl", *rows))] == [
        "Of 1, 2 and 3, which?\n(A) 1\n(B) 2\n(C) 3",
        "Which? A. x B. y",
        "Which figure?",
    ]


@pytest.mark.parametrize(
    ("cell", "answer", "kind"),
    [
        ("b", "B", "choice"),
        ("(B).", "B", "choice"),
        ("B. six", "B", "choice"),
        ("(B) six", "B", "choice"),
        (" SIX", "B", "choice"),
        (1, "B", "choice"),
        (1.0, "B", "choice"),
        ("1.0", "B", "choice"),
        (["six"], "B", "choice"),
        ("\\boxed{B}", "B", "choice"),
        ("<think>..</think><answer> B </answer>", "B", "choice"),
        ("CA", "A, C", "multi_choice"),
        ("A and C", "A, C", "multi_choice"),
        ([2, "A"], "A, C", "multi_choice"),
        ('["A", "C"]', "A, C", "multi_choice"),
    ],
)
def test_spellings_of_a_choice(cell, answer, kind, tmp_path):
    row = ROW | {"choices": ["two", "six", "ten"], "answer": cell}
    (sample,) = read(jsonl(tmp_path / "a.jsonl", row))
    assert (sample.answer, sample.answer_type) == (answer, kind)


def test_a_stop_that_belongs_to_the_answer(tmp_path):
    rows = [ROW | {"choices": ["2 P.M", "2 P.M.", "3."], "answer": a} for a in ("2 P.M.", "3.")]
    rows.append(ROW | {"answer": "2 P.M."})
    found = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert [s.answer for s in found] == ["B", "C", "2 P.M."]


def test_a_columns_integers_are_all_texts_or_all_indices(tmp_path):
    def letters(*golds, choices=("1", "2", "3")):
        rows = [ROW | {"choices": list(choices), "answer": gold} for gold in golds]
        return [s.answer for s in read(jsonl(tmp_path / "a.jsonl", *rows))]

    assert letters(1, 2.0, "3") == ["A", "B", "C"]  # all are choices' texts
    assert letters(1, 1.0, "0") == ["B", "B", "A"]  # 0 is no text, so that they count from 0
    assert letters(1, 3, 2, choices=("x", "y", "z")) == ["A", "C", "B"]  # 3 is no index from 0
    assert letters(1, 2, 2, choices=("x", "y", "z")) == ["B", "C", "C"]  # nothing tells: from 0


def test_a_column_of_indices_from_0_and_from_1_is_refused_whole(tmp_path):
    rows = [ROW | {"choices": ["x", "y"], "answer": gold} for gold in (0, 1, 2)]
    found = list(generic.rows(jsonl(tmp_path / "a.jsonl", *rows)))
    assert {r.reason.partition(":")[0] for r in found} == {
        "the gold answers beside choices are no indices from 0 and none from 1"
    }


def test_one_wrong_index_among_hundreds_is_that_records_fault(tmp_path):
    rows = [ROW | {"choices": ["x", "y", "z"], "answer": n % 3} for n in range(200)]
    found = list(generic.rows(jsonl(tmp_path / "a.jsonl", *rows, rows[0] | {"answer": 3})))
    assert [s.answer for s in found[:3]] == ["A", "B", "C"]
    assert "index from 0" in found[200].reason


@pytest.mark.parametrize("cell", ["D", "B. two", 4, "seven", ["A", "D"], "A, D"])
def test_a_gold_that_is_no_choice(cell, tmp_path):
    row = ROW | {"choices": ["two", "six", "ten"], "answer": cell}
    (gone,) = generic.rows(jsonl(tmp_path / "a.jsonl", row))
    assert gone.reason.startswith("the gold answer")
    assert "choices" in gone.reason
    assert gone.reason.endswith("a.jsonl, record 0)")


@pytest.mark.parametrize(
    ("cell", "answer", "kind"),
    [
        (3, "3", "number"),
        (["14"], "14", "number"),
        ([3, 4.5], "[3, 4.5]", "tuple"),
        ("$\\frac{1}{2}$", "\\frac{1}{2}", "number"),
        ("AC", "AC", "expression"),  # a line, not two letters of choices
        ("A, C", "A, C", "multi_choice"),
        ("P, Q", "P, Q", "set"),
    ],
)
def test_free_answers(cell, answer, kind, tmp_path):
    (sample,) = read(jsonl(tmp_path / "a.jsonl", ROW | {"answer": cell}))
    assert (sample.answer, sample.answer_type) == (answer, kind)


def test_answers_inside_say_how_to_reach_them(tmp_path):
    rows = [ROW | {"answer": ["3", "three"]}, ROW | {"answer": {"value": 3}}]
    listed, inside = generic.rows(jsonl(tmp_path / "a.jsonl", *rows))
    assert "--map answer=COLUMN.0" in listed.reason
    assert "--map answer=COLUMN.KEY" in inside.reason
    row = {"q": [{"text": "How many?"}], "g": '{"v": ["3", "three"]}', "o": [{"t": "x"}]}
    (sample,) = read(jsonl(tmp_path / "b.jsonl", row), problem="q.0.text", answer="g.v.0")
    assert (sample.problem, sample.answer) == ("How many?", "3")
    with pytest.raises(DataError, match=r"no column 'g\.w' for answer"):
        read(tmp_path / "b.jsonl", problem="q.0.text", answer="g.w")


@pytest.mark.parametrize("cell", ["1.png", ["1.png"], {"bytes": _text(PNG)}])
def test_a_column_of_pictures_is_not_passed_over(cell, tmp_path):
    save(tmp_path / "1.png")
    file = jsonl(tmp_path / "a.jsonl", ROW, ROW | {"figure": cell})
    with pytest.raises(DataError, match=r"'figure' .*--map images=figure"):
        read(file)
    assert [len(s.images) for s in read(file, images="figure")] == [0, 1]


@pytest.mark.parametrize("name", ["easyr1", "verl", "trl", "sharegpt"])
def test_trainers_formats_of_text_alone(name, tmp_path):
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    row = {
        "easyr1": {"problem": "1 + 1?", "answer": "2"},
        "verl": {"prompt": turns[:1], "reward_model": {"ground_truth": "2"}},
        "trl": {"prompt": turns[:1], "solution": "2"},
        "sharegpt": {"messages": turns},
    }[name]
    (sample,) = source_function(name)(jsonl(tmp_path / "a.jsonl", row))
    assert (sample.problem, sample.images, sample.answer) == ("1 + 1?", (), "2")


def test_cells_without_a_number(tmp_path):
    nan = float("nan")
    rows = [ROW | {"precision": nan, "score": nan}, ROW | {"precision": 2.0, "score": 1.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    one, two = read(tmp_path / "a.parquet")
    assert (one.precision, two.precision) == (None, 2)
    assert ("score" in one.metadata, two.metadata["score"]) == (False, 1.0)
    pq.write_table(pa.Table.from_pylist([ROW | {"answer": nan}]), tmp_path / "b.parquet")
    (empty,) = generic.rows(tmp_path / "b.parquet")
    assert empty.answer == ""
    (odd,) = generic.rows(jsonl(tmp_path / "c.jsonl", ROW | {"precision": "two"}))
    assert odd.reason.startswith("the precision is not a number of decimals: 'two'")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_a_byte_order_mark_quotes_and_any_delimiter(delimiter, tmp_path):
    save(tmp_path / "1.png")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(["question", "answer", "image"])
        writer.writerow(['How "many",\nhere; and\tthere?', "3", "1.png"])
    (sample,) = read(tmp_path / "a.csv")
    assert sample.problem == '<image>\nHow "many",\nhere; and\tthere?'
    assert sample.images == (PNG,)


def test_columns_of_any_name(tmp_path):
    row = {"Question": "Which?", "a+b": "y", "A": "x", "B": "y", "C": None, "q.text": 1}
    (sample,) = read(jsonl(tmp_path / "a.jsonl", row), answer="a+b", choices="A+B+C", task="q.text")
    assert (sample.problem, sample.answer) == ("Which?\n(A) x\n(B) y", "B")
    assert sample.task == "1"
    (sample,) = read(jsonl(tmp_path / "b.jsonl", ROW | {"group": 3, "step": "b"}), id="group+step")
    assert sample.id == "b-3-b"


def test_columns_as_lists_in_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"question": ["1?", "2?"], "answer": [1, 2]}))
    assert [s.answer for s in read(tmp_path / "a.json")] == ["1", "2"]


def test_a_chat_in_the_place_of_the_problem(tmp_path):
    parts = [{"type": "text", "text": "How many? "}]
    parts += [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + _text(PNG)}}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    rows = [{"prompt": turns, "answer": "3"}, {"prompt": json.dumps(turns), "answer": "3"}]
    for sample in read(jsonl(tmp_path / "a.jsonl", *rows)):
        assert (sample.problem, sample.images) == ("Be brief.\n\nHow many? <image>", (PNG,))
    cut = {"prompt": json.dumps(turns)[:-5], "answer": "3"}
    (gone,) = generic.rows(jsonl(tmp_path / "b.jsonl", cut))
    assert "list of turns" in gone.reason


def test_pictures_of_later_turns_are_left_out(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", OTHER)
    said = ("See <image> here: how many?", "3", "And <image>?", "4")
    turns = [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(said)]
    row = {"image": ["a.png", "b.png"], "conversations": turns}
    two = {"image": ["a.png", "b.png"], "conversations": [dict(turns[0]), turns[1]]}
    two["conversations"][0]["value"] = "Is <image> more than <image>?"
    first, second = source_function("sharegpt")(jsonl(tmp_path / "a.jsonl", row, two))
    assert (first.problem, first.images) == ("See <image> here: how many?", (PNG,))
    assert (second.problem, second.images) == ("Is <image> more than <image>?", (PNG, OTHER))


def test_files_of_splits_keep_theirs(tmp_path):
    for place in ("train.jsonl", "val/a.jsonl", "test-00000.jsonl"):
        jsonl(tmp_path / "set" / place, ROW | {"question": f"{place}?"})
    report = prepare("generic", PrepareOptions(tmp_path / "out", source=tmp_path / "set"))
    assert report.kept == {"train": 1, "test": 2}
    only = prepare(
        "generic", PrepareOptions(tmp_path / "val", source=tmp_path / "set", split="val")
    )
    assert only.kept == {"test": 1}
    alone = prepare(
        "generic", PrepareOptions(tmp_path / "one", source=tmp_path / "set" / "train.jsonl")
    )
    assert sum(alone.kept.values()) == 1


def test_shards_have_to_be_all_there(tmp_path):
    for number in range(3):
        name = f"train-{number:05d}-of-00003.parquet"
        pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / name)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "more.parquet").write_text("no parquet, and none of ours")
    assert len(read(tmp_path)) == 3
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00003\.parquet: .*1 of 3"):
        read(tmp_path)
    (tmp_path / "train-00001-of-00003.parquet").write_text("")
    with pytest.raises(DataError, match=r"train-00001-of-00003\.parquet: .*empty"):
        read(tmp_path)
