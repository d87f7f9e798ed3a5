"""Every convention of docs/verifiers.md on extraction, choices, counts and boxes holds."""

import re

import pytest
from helpers import ROOT

from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import boxes, choice, count, maths, point
from sapo_vl.schema import Outcome, Sample

HEADERS = {
    "| convention | gold | response | verdict |": "value",
    "| convention | gold | choices | response | verdict |": "choice",
    "| convention | verifier | gold | response | verdict |": "named",
}
NAMED = {"count": count.score, "boxes": boxes.score, "point": point.score}
CELL = re.compile(r"(?<!\\)\|")


def rows():
    """Return (table, cells without the convention) of every row of the three tables."""
    found, table = [], None
    for line in (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|") or line in HEADERS:
            table = HEADERS.get(line)
        elif table and not line.startswith("|---"):
            cells = [cell.strip().replace("\\|", "|") for cell in CELL.split(line)[2:-1]]
            assert all(cell[0] == cell[-1] == "`" for cell in cells[:-1]), line
            found.append((table, *(cell.strip("`") for cell in cells)))
    return found


def test_there_are_tables():
    assert len(rows()) == len(set(rows())) >= 55
    assert {row[0] for row in rows()} == set(HEADERS.values())


@pytest.mark.parametrize("row", rows(), ids=lambda row: " <- ".join(row[1:-1]))
def test_convention(row):
    table, *cells, verdict = row
    if table == "value":
        gold, response = cells
        result = maths.decide_fast(Sample("c-1", "c", "t", "?", (), gold), response)
        assert not isinstance(result, NeedsWorker)
    elif table == "choice":
        gold, choices, response = cells
        kind = "multi_choice" if "," in gold else "choice"
        options = tuple(choices.split("; "))
        sample = Sample("c-1", "c", "t", "?", (), gold, answer_type=kind, choices=options)
        result = choice.score(sample, response)
    else:
        name, gold, response = cells
        result = NAMED[name](Sample("c-1", "c", "t", "?", (), gold, answer_type=name), response)
    assert result.outcome is Outcome(verdict), result.reason
