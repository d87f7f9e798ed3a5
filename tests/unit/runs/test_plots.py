"""The reward panel has a curve per term; a term's mean over one task is none of them."""

from __future__ import annotations

import json

from sapo_vl.runs import plots


def test_terms_are_told_from_tasks():
    rows = [{"reward/term/boxed": 0.5, "reward/term/boxed/sum": 0.1, "reward/task/sum": 1.0}]
    assert plots.term_names([*rows, {"reward/term/format": 1.0}]) == ["boxed", "format"]


def test_a_run_without_any_verdict_can_be_drawn(tmp_path):
    rows = [
        {"phase": "train", "step": 1, "reward/term/format": 0.5, "no_verdict": {"x": 3}},
        {"phase": "train", "step": 2, "reward/term/format": 0.5, "reward/term/boxed": None},
        {"phase": "eval", "step": 2, "name": "after", "avg": None, "ci95_low": None},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plots.curves(tmp_path).read_bytes().startswith(b"\x89PNG")
