"""RUN/warnings.jsonl: order kept, repeats of a resumed run once, a cut-off line left out."""

from __future__ import annotations

from sapo_vl.runs import warning_log
from sapo_vl.runs.warning_log import RunWarning


def test_warnings_are_read_once_each_and_in_order(tmp_path):
    assert warning_log.read(tmp_path) == []
    for step, text in (
        (0, "a record"),
        (3, "parity\n\x1b[2J"),
        (3, "parity\n\x1b[2J"),
        (2, "late"),
    ):
        warning_log.record(tmp_path, step, text)
    with (tmp_path / warning_log.FILE).open("a") as file:
        file.write('{"step": 4, "te')
    assert warning_log.read(tmp_path) == [
        RunWarning(0, "a record"),
        RunWarning(3, "parity\n\x1b[2J"),
        RunWarning(2, "late"),
    ]


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sapo_vl.system.distributed.rank", lambda: 1)
    warning_log.record(tmp_path, 1, "x")
    assert not (tmp_path / warning_log.FILE).exists()
