"""Every convention of docs/verifiers.md holds: each table row is put to the verifier `math`."""

import re

import pytest
from helpers import ROOT

from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import maths
from sapo_vl.schema import Outcome, Sample

HEADER = "| convention | gold | answer | verdict |"
CELL = re.compile(r"(?<!\\)\|")
OUTCOME = {"equal": Outcome.CORRECT, "different": Outcome.WRONG}


def rows():
    """Return (gold, answer, verdict, whether it needs a worker) of every convention."""
    found, in_table = [], False
    for line in (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8").splitlines():
        if line == HEADER or not line.startswith("|"):
            in_table = line == HEADER
        elif in_table and not line.startswith("|---"):
            cells = [cell.strip().replace("\\|", "|") for cell in CELL.split(line)[1:-1]]
            assert len(cells) == 4, line
            assert all(cell[0] == cell[-1] == "`" for cell in cells[1:3]), line
            verdict, _, worker = cells[3].partition(" ")
            assert worker in ("", "(worker)"), line
            found.append((cells[1].strip("`"), cells[2].strip("`"), verdict, bool(worker)))
    return found


def sample(gold):
    return Sample("c-1", "conventions", "t", "?", (), gold)


def response(answer):
    return f"So it is \\boxed{{{answer}}}."


def test_there_are_tables():
    assert len(rows()) >= 80
    assert len(set(rows())) == len(rows())


@pytest.mark.parametrize(("gold", "answer", "verdict"), [row[:3] for row in rows() if not row[3]])
def test_convention(gold, answer, verdict):
    result = maths.decide_fast(sample(gold), response(answer))
    assert not isinstance(result, NeedsWorker), "mark the row with (worker)"
    assert result.outcome is OUTCOME[verdict], result.reason


def test_conventions_that_need_computer_algebra():
    wrong = []
    for gold, answer, verdict, needs_worker in rows():
        if needs_worker:
            assert isinstance(maths.decide_fast(sample(gold), response(answer)), NeedsWorker), gold
            result = maths.score(sample(gold), response(answer))
            if result.outcome is not OUTCOME[verdict]:
                wrong.append((gold, answer, verdict, result.reason))
    assert not wrong
