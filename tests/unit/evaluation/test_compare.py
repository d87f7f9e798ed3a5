"""`sapo-vl compare` on runs and on evaluate's folders: pairing, refusals, notes."""

from __future__ import annotations

import json

import pytest
from run_folders import AFTER, BEFORE, write_evaluation, write_run

from sapo_vl.cli.parser import main
from sapo_vl.errors import DataError
from sapo_vl.evaluation import compare, graded


def evaluated(folder, verdicts, **settings):
    """Write what `sapo-vl evaluate --out FOLDER` writes."""
    write_evaluation(folder, "x", verdicts)
    (folder / "eval" / "x.jsonl").rename(folder / "responses.jsonl")
    (folder / "eval" / "x.json").rename(folder / "summary.json")
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_a_run_alone_is_compared_before_and_after(tmp_path, capsys):
    folder = write_run(tmp_path / "a")
    main(["compare", str(folder)])
    out = capsys.readouterr().out
    assert f"A = {folder} before training, B = {folder} after training" in out
    found = json.loads(out.splitlines()[-1])
    whole = found["benchmarks"]["held-out"]
    assert (whole["first"], whole["second"], whole["difference"]) == (0.375, 0.875, 0.5)
    assert (whole["problems"], whole["gained"], whole["lost"]) == (4, 2, 0)
    assert whole["p_value"] == pytest.approx(0.5)  # see test_report_numbers.py
    assert found["benchmarks"]["task odd"]["first"] == 0.5
    assert "held-out greedy" not in found["benchmarks"]


def test_two_runs_are_compared_after_training(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    write_evaluation(second, "after", BEFORE, step=2)
    found = compare.main(first, second)["benchmarks"]["held-out"]
    assert (found["first"], found["second"], found["lost"]) == (0.875, 0.375, 2)


def test_a_run_and_a_folder_of_evaluate(tmp_path, capsys):
    first = write_run(tmp_path / "a")
    second = evaluated(tmp_path / "b", {**AFTER, "p1": [None, None]}, temperature=0.5)
    found = compare.main(first, second)
    whole = found["benchmarks"]["held-out"]
    assert (whole["problems"], whole["only_first"], whole["only_second"]) == (3, 1, 0)
    assert found["notes"][0] == "evaluated with other settings, temperature: 1.0 and 0.5"
    note = "note: held-out: problems left out: 1 of A alone, 0 of B alone"
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verdicts", "fields", "message"),
    [
        ({"q1": [True], "q2": [False]}, {}, r"no problem in common \('p1', 'p2', \.\. and 'q1'"),
        (AFTER, {"answer": "9"}, "problem 'p1' has the answer '7' in one and '9' in the other"),
        ({"p1": [None, None]}, {}, "no benchmark in common"),
    ],
)
def test_other_problems_are_refused(tmp_path, verdicts, fields, message):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    if verdicts == {"p1": [None, None]}:
        write_evaluation(second, "after", {"p1": [True]}, step=2)
        text = (second / "eval" / "after.jsonl").read_text().replace("true", "null")
        (second / "eval" / "after.jsonl").write_text(text)
    else:
        write_evaluation(second, "after", verdicts, step=2, **fields)
    with pytest.raises(DataError, match=message):
        compare.main(first, second)


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    (run / "eval" / "after.json").unlink()
    folder = evaluated(tmp_path / "b", AFTER)
    for arguments, message in (
        ([run], "is a run without a finished evaluation eval/after.json"),
        ([run, folder], "is a run without a finished evaluation eval/after.json"),
        ([folder], "is not a run: name a second folder or file to compare it with"),
        ([tmp_path, folder], "is neither a scored file, nor a run, nor a folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *map(str, arguments)])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "a"}, r"x.jsonl:1: the key 'task' is missing"),
        ({"mode": "odd"}, r"x.jsonl:1: not a line of a held-out evaluation"),
        ({"correct": "yes"}, r"x.jsonl:1: not a line of a held-out evaluation"),
    ],
)
def test_lines_of_other_files_are_named(tmp_path, line, message):
    whole = {
        "id": "a", "task": "t", "mode": "greedy", "correct": True, "answer": "1", "response": "x",
    }  # fmt: skip
    (tmp_path / "x.jsonl").write_text(json.dumps(line if "id" in line else whole | line) + "\n")
    with pytest.raises(DataError, match=message):
        graded.read(tmp_path / "x.jsonl")
