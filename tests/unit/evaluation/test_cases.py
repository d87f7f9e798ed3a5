"""Score files that were scored wrongly in silence: each of ../shared/cases/eval, and what is right.

`answers` are verdicts by problem (None: no verdict); "error" is the field that one line must name.
"""

from __future__ import annotations

import json

import pytest
from helpers import SHARED

from sapo_vl.errors import DataError
from sapo_vl.evaluation import score

CASES = SHARED / "cases" / "eval"
LETTER_B = {"closed": True, "cut": False, "tail": True}
SEVEN = {"closed": True, "cut": False}
RIGHT: dict[str, dict[str, bool | None] | str] = {
    "err-mathvista": {"1": False, "2": True, "3": True, "4": True},  # the first nearest of equals
    "goldcase-mmmu": {"1": True, "2": True, "3": True, "4": None},
    "golds-mathvision": {"1": True, "2": None, "3": None, "4": True, "5": True},
    "list-mathvision": "response",
    "missing-mathvista": "question_type",
    "nan-mathvision": "response",
    "nanchoice-mathvision": "choices",
    "optnone-mmmu": {"1": True, "2": True, "3": False, "4": True},  # 3: a random choice, seed 42
    **{f"think-{name}": LETTER_B for name in (
        "emma", "geometry3k", "mathverse", "mathvision", "mathvista", "mmmu_pro")},
    **{f"thinkopen-{name}": SEVEN for name in (
        "geoqa", "mathvision", "mmk12", "mmmu", "olympiadbench", "superclevr")},
    "wemath-forms": {"1": True, "2": True, "3": False},  # 3: any_form
}  # fmt: skip
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases/eval is not here")


def test_every_case_has_its_expectation():
    files = {path.stem for path in CASES.glob("*.jsonl")}
    assert files == RIGHT.keys() | {"unequal-mathvision"}


@pytest.mark.parametrize("name", RIGHT)
def test_a_case(name, tmp_path):
    out, benchmark, right = tmp_path / "out.jsonl", name.split("-")[-1], RIGHT[name]
    benchmark = "wemath" if name == "wemath-forms" else benchmark
    if isinstance(right, str):
        with pytest.raises(DataError, match=rf"{name}.jsonl:1: {right} "):
            score.main(benchmark, CASES / f"{name}.jsonl", out)
        assert not out.exists()
        return
    score.main(benchmark, CASES / f"{name}.jsonl", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["problem_id"]: row["correct"] for row in rows} == right
    if name.startswith("think"):
        assert {row["problem_id"]: row["extraction"] for row in rows}["cut"] is None


def test_unequal_samples_are_averaged_by_problem(tmp_path, capsys):
    found = score.main("mathvision", CASES / "unequal-mathvision.jsonl", tmp_path / "out.jsonl")
    assert found["accuracy"] == {"m": 0.625}
    assert found["aggregates"]["m"]["average"]["ci95"] == [0.25, 1.0]
    assert found["aggregates"]["m"]["unequal_samples"] == {"fewest": 1, "most": 4}
    assert "1 to 4 samples per problem" in capsys.readouterr().out
