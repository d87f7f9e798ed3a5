"""`sapo-vl verify`: verdicts, totals, malformed rows, and the format of the labelled pairs."""

import argparse
import gzip
import json

import pytest

from sapo_vl.cli import verify, verify_rows
from sapo_vl.errors import DataError, UserError
from sapo_vl.rewards import JUDGED

USER_VERIFIER = """
def half(sample, response):
    return 0.5 if response == sample.answer else 0.0
"""

ROWS = [
    {"id": "1", "answer": "0.5", "response": r"It is \boxed{\frac{1}{2}}."},
    {"id": "2", "answer": "dog", "response": "The answer is a dog.", "answer_type": "text"},
    {"id": "3", "answer": "B", "verifier": "choice", "response": "dog", "choices": ["cat", "dog"]},
    {"id": "4", "answer": "6.67", "response": "20:3", "rel_tol": 0.005, "bare": True},
    {"id": "5", "answer": "5", "response": "The answer is 6.", "verifier": "math", "bare": True},
    {"id": "6", "gold": "5", "response": "The answer is 5.", "verifier": "math"},
    {"id": "7", "answer": "", "response": r"\boxed{}"},
    {"id": "8", "answer": "[1,1,2,2]", "response": "[1,1,2,2]", "answer_type": "boxes"},
]
OUTCOMES = [
    *("correct", "correct", "correct", "correct"),
    *("wrong", "correct", "no_verdict", "correct"),
]

LABELLED_PAIRS = [
    {"id": "1", "mode": "answer", "gold": "0.5", "response_or_answer": "1/2"},
    {"id": "2", "mode": "response", "gold": "42", "response": r"\boxed{41}"},
    {"id": "3", "mode": "mcq", "gold": "B", "response": "dog", "choices": ["cat", "dog"]},
    {"id": "4", "mode": "answer_tol", "gold": "6.67", "response": "20:3", "rel_tol": 0.005},
    {"id": "5", "mode": "response", "gold": "1.06", "response": "1.061", "precision": 2},
    {"id": "6", "mode": "response", "gold": "", "response": r"\boxed{}"},
    {"id": "7", "mode": "response", "gold": "42", "response_repeat": ["", "1 ", 200_000, ""]},
    {"id": "8", "mode": "bbox", "gold": "[1,1,2,2]", "response": "[1,1,2,2]"},
]


EXPECTED = [
    *("correct", "wrong", "correct", "correct"),
    *("correct", "no_verdict", "wrong", "correct"),
]


def run(tmp_path, lines, name="pairs.jsonl", **options):
    path = tmp_path / name
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    settings = {"workers": 1, "deadline": 2.0, "judge": None, "judge_model": None} | options
    verify.run(argparse.Namespace(input=path, out=tmp_path / "out.jsonl", **settings))
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_verdicts_and_totals(tmp_path, capsys, name):
    out = run(tmp_path, [json.dumps(row) for row in ROWS], name)
    assert [row["id"] for row in out] == list("12345678")
    assert [row["outcome"] for row in out] == OUTCOMES
    assert set(out[0]) == {"id", "outcome", "score", "extracted", "reason", "seconds", "tier"}
    assert out[2]["extracted"] == "B"
    assert "empty" in out[6]["reason"]
    totals = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (totals["rows"], totals["no_verdict"], totals["kills"]) == (8, 1, 0)
    assert totals["tiers"]["fast"]["share"] == 1.0


def test_the_format_of_the_labelled_pairs(tmp_path, capsys):
    out = run(tmp_path, [json.dumps(row) for row in LABELLED_PAIRS])
    assert [row["outcome"] for row in out] == EXPECTED
    assert out[2]["extracted"] == "B"
    assert "empty" in out[5]["reason"]
    totals = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (totals["rows"], totals["no_verdict"]) == (8, 1)


def test_a_verifier_of_the_user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER_VERIFIER)
    row = {"id": "1", "answer": "8", "response": "8", "verifier": f"{path}:half"}
    (verdict,) = run(tmp_path, [json.dumps(row)])
    assert (verdict["outcome"], verdict["score"], verdict["tier"]) == ("correct", 0.5, "user")


def test_with_a_judge_the_default_verifier_asks_it():
    row = {"id": "1", "answer": "red", "response": "crimson"}
    for extra in ({}, {"mode": "answer"}, {"mode": "text"}, {"mode": "judge"}):
        parsed = verify_rows.parse_row(json.dumps(row | extra), "f:1", "answer_or_judge")
        assert parsed.verifier == "answer_or_judge"
    for mode in ("answer_tol", "mcq", "judge_reply", "count", "bbox", "point"):
        parsed = verify_rows.parse_row(json.dumps(row | {"mode": mode}), "f:1", "answer_or_judge")
        assert parsed.verifier not in JUDGED


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "JSON"),
        ("[1]", "JSON"),
        ('{"id": "1", "mode": "answr", "gold": "1", "response": "1"}', "'answer'"),
        ('{"id": "1", "mode": "answer", "gold": 1, "response": "1"}', "'gold'"),
        ('{"id": "1", "mode": "answer", "gold": "1"}', "'response'"),
        ('{"id": "1", "mode": "mcq", "gold": "A", "response": "A", "choices": "AB"}', "'choices'"),
        ('{"id": "1", "gold": "1", "response": "1", "rel_tol": "x"}', "'rel_tol'"),
        ('{"id": "1", "response": "1"}', "'answer'"),
        ('{"id": "1", "answer": "1", "response": "1", "verifier": "mth"}', "'math'"),
        ('{"id": "1", "answer": "1", "response": "1", "verifier": "judge"}', "--judge"),
        ('{"id": "1", "answer": "1", "response": "1", "answer_type": "set "}', "answer_type"),
        ('{"id": "1", "answer": "1", "response": "1", "verifier": "count", "bare": true}', "bare"),
        ('{"id": "1", "answer": "1", "response": "1", "precision": 31}', "'precision'"),
        ('{"id": "1", "answer": "1", "response": "1", "precision": 3000000000}', "'precision'"),
        ('{"id": "1", "answer": "1", "response": "1", "precision": NaN}', "'precision'"),
        ('{"id": "1", "answer": "1", "response": "1", "precision": -Infinity}', "'precision'"),
        ('{"id": "1", "answer": "1", "response": "1", "precision": 1.5}', "'precision'"),
        ('{"id": "1", "answer": "1", "response": "1", "rel_tol": Infinity}', "'rel_tol'"),
        ('{"id": "1", "answer": "1", "response": "1", "rel_tol": NaN}', "'rel_tol'"),
        ('{"id": "1", "answer": "1", "response": "1", "rel_tol": 2}', "'rel_tol'"),
        ('{"id": "1", "answer": "1", "response": "1", "rel_tol": true}', "'rel_tol'"),
        ('{"id": "1", "answer": "1", "response": "1", "unit": 5}', "'unit'"),
        ('{"id": "1", "answer": "1", "response": "1", "question": []}', "'question'"),
        ('{"id": "1", "answer": "1", "response": "1", "mode": ["answer"]}', "mode"),
        ('{"id": "1", "answer": "1", "response": "1", "answer_type": []}', "answer_type"),
        ('{"id": "1", "answer": "1", "response_repeat": ["", "ab", 5000000000, ""]}', "repeat"),
        ('{"id": "1", "answer": "1", "response_repeat": ["", "ab", -1, ""]}', "repeat"),
        ('{"id": "1", "answer": "1", "response_repeat": ["", "", 10000000000000, ""]}', "repeat"),
        (
            '{"id": "1", "mode": "mcq", "gold": "A", "response": "A", "choices": ["x"%s]}'
            % (26 * ', "x"'),
            "27 choices",
        ),
        ("[" * 100_000, "too deep"),
        ('{"id": "1", "answer": ' + "1" * 5000 + "}", "JSON"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, line, word):
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: ") as caught:
        run(tmp_path, [json.dumps(ROWS[0]), line])
    assert word in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_options_are_refused(tmp_path):
    for options in (
        {"judge": "http://x/v1"},
        {"judge": "x", "judge_model": "m"},
        {"deadline": 0},
        {"deadline": float("nan")},
        {"deadline": float("inf")},
        {"workers": 0},
    ):
        with pytest.raises(UserError):
            run(tmp_path, [json.dumps(ROWS[0])], **options)


def small(name="1"):
    return json.dumps({"id": name, "answer": "1", "response": "1"})


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (gzip.compress(small().encode() * 1, mtime=0)[:-9], "after line"),
        (b"\x1f\x8b\x08\x00 no gzip at all", "after line"),
        (small().encode() + b'\n{"id": "d\xe9j\xe0", "answer": "1", "response": "1"}', "UTF-8"),
        (gzip.compress(b" " * (verify_rows.MAX_LINE_BYTES + 9), mtime=0), "longer than 16 MiB"),
        (b" " * (verify_rows.MAX_LINE_BYTES + 9), "longer than 16 MiB"),
        (gzip.compress(b"\n" * 200_000, mtime=0), "without a row"),
    ],
    ids=["cut", "false", "latin-1", "bomb", "long", "blank"],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, word):
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pairs\.jsonl\.gz") as caught:
        list(verify_rows.read_rows(path, "answer"))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_content_says_whether_a_file_is_packed(tmp_path):
    plain, packed = tmp_path / "a.jsonl.gz", tmp_path / "a.jsonl"
    plain.write_bytes(b"\xef\xbb\xbf" + small().encode())
    packed.write_bytes(gzip.compress(small().encode()))
    for path in (plain, packed):
        assert [row.sample.id for row in verify_rows.read_rows(path, "answer")] == ["1"]


def test_half_a_surrogate_goes_through(tmp_path):
    line = '{"id": "\\ud800", "answer": "1", "response": "\\boxed{\\udfff}"}'.replace(
        "\\b", "\\\\b"
    )
    (row,) = run(tmp_path, [line])
    assert (row["id"], row["outcome"]) == ("\ud800", "wrong")


def test_the_output_is_never_the_input(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(small() + "\n")
    link = tmp_path / "link.jsonl"
    link.hardlink_to(path)
    settings = {"workers": 1, "deadline": 2.0, "judge": None, "judge_model": None}
    for out in (path, link, tmp_path / "." / "pairs.jsonl"):
        with pytest.raises(DataError, match="--in"):
            verify.run(argparse.Namespace(input=path, out=out, **settings))
    assert path.read_text() == small() + "\n"


def test_an_output_is_replaced_when_the_new_one_is_complete(tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")

    def fail(*_):
        assert out.read_text() == "old\n"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verify, "verify", fail)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, [small()])
    assert out.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "pairs.jsonl"]
    assert [row["id"] for row in run(tmp_path, [small("7")])] == ["7"]
