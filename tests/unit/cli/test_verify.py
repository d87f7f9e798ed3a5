"""The command: rows in, verdicts out, totals, and rows that are none."""

import argparse
import gzip
import json

import pytest

from sapo_vl.cli import verify
from sapo_vl.errors import DataError

ROWS = [
    {"id": "1", "mode": "answer", "gold": "0.5", "response_or_answer": "1/2"},
    {"id": "2", "mode": "response", "gold": "42", "response": r"\boxed{41}"},
    {"id": "3", "mode": "mcq", "gold": "B", "response": "dog", "choices": ["cat", "dog"]},
    {"id": "4", "mode": "answer_tol", "gold": "6.67", "response": "20:3", "rel_tol": 0.005},
    {"id": "5", "mode": "response", "gold": "1.06", "response": "1.061", "precision": 2},
    {"id": "6", "mode": "response", "gold": "", "response": r"\boxed{}"},
    {"id": "7", "mode": "response", "gold": "42", "response_repeat": ["", "1 ", 200_000, ""]},
    {"id": "8", "mode": "bbox", "gold": "[1,1,2,2]", "response": "[1,1,2,2]"},
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
def test_rows_and_totals(tmp_path, capsys, name):
    out = run(tmp_path, [json.dumps(row) for row in ROWS], name)
    assert [row["id"] for row in out] == list("12345678")
    assert [row["outcome"] for row in out] == [
        "correct", "wrong", "correct", "correct", "correct", "no_verdict", "wrong", "correct",
    ]  # fmt: skip
    assert set(out[0]) == {"id", "outcome", "score", "extracted", "reason", "seconds", "tier"}
    assert out[2]["extracted"] == "B"
    assert "empty" in out[5]["reason"]
    totals = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (totals["rows"], totals["no_verdict"], totals["kills"]) == (8, 1, 0)
    assert totals["tiers"]["fast"]["share"] == 1.0


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"id": "1", "mode": "answr", "gold": "1", "response": "1"}', "did you mean 'answer'"),
        ('{"id": "1", "mode": "answer", "gold": 1, "response": "1"}', "'gold'"),
        ('{"id": "1", "mode": "answer", "gold": "1"}', "'response'"),
        ('{"id": "1", "mode": "mcq", "gold": "A", "response": "A", "choices": "AB"}', "'choices'"),
        (
            '{"id": "1", "mode": "answer", "gold": "1", "response": "1", "rel_tol": "x"}',
            "'rel_tol'",
        ),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, line, word):
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: ") as caught:
        run(tmp_path, [json.dumps(ROWS[0]), line])
    assert word in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_options_are_refused(tmp_path):
    for options in ({"judge": "http://x/v1"}, {"deadline": 0}, {"workers": 0}):
        with pytest.raises(DataError):
            run(tmp_path, [json.dumps(ROWS[0])], **options)
