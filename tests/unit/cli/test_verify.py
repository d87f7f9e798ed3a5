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
    {"id": "5", "answer": "5", "response": "The answer is 5.", "verifier": "math", "bare": True},
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
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, line, word):
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: ") as caught:
        run(tmp_path, [json.dumps(ROWS[0]), line])
    assert word in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_options_are_refused(tmp_path):
    for options in ({"judge": "http://x/v1"}, {"deadline": 0}, {"workers": 0}):
        with pytest.raises(DataError):
            run(tmp_path, [json.dumps(ROWS[0])], **options)
