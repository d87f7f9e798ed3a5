"""The laboratory end to end: a grid, killed on the way and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import cli, environment

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "lab", "--grids", "g", "--seeds", "1", "--steps", "2", "--jobs", "1",
    "sft.steps=4", "data.synthetic_train=120", "data.synthetic_test=24", "rollout.prompts=16",
    "rollout.group_size=2", "evaluation.problems=8", "evaluation.samples=1",
)  # fmt: skip


def results(out: Path) -> dict[str, float]:
    return {path.parent.name: path.stat().st_mtime for path in out.glob("cells/*/result.json")}


def test_a_killed_laboratory_goes_on_with_the_cells_that_are_missing(tmp_path):
    out = tmp_path / "lab"
    command = [sys.executable, "-m", "sapo_vl.cli", *ARGUMENTS, "--out", str(out)]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(), start_new_session=True
        )
        try:
            deadline = time.monotonic() + 500
            while not results(out):
                assert running.poll() is None, (tmp_path / "log").read_text()[-4000:]
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-4000:]
                time.sleep(0.1)
            workers = psutil.Process(running.pid).children(recursive=True)
            assert workers
        finally:
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
    psutil.wait_procs(workers, timeout=20)
    left = [p for p in workers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left, "a worker outlived the laboratory"
    before = results(out)
    assert 1 <= len(before) < 4

    done = cli(*ARGUMENTS, "--out", out, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "warm-up of" not in done.stdout  # it was there already
    after = results(out)
    assert len(after) == 4
    assert before.items() <= after.items(), "a finished cell was run again"
    for name in after:
        result = json.loads((out / "cells" / name / "result.json").read_text())
        assert [row["step"] for row in result["rows"]] == [1, 2]
        assert 0 <= result["after"] <= 1
        assert result["error"] is None
        assert all(row["gate/mean"] <= 1 for row in result["rows"] if "gate/mean" in row)
        assert not (out / "cells" / name / "run").exists()
    page = (out / "page.html").read_text()
    for arm in ("sapo", "sapo, hard", "grpo"):
        assert arm in page

    other = cli(*ARGUMENTS, "--out", out, "rollout.temperature=2", timeout=60)
    assert other.returncode == 2
    assert "holds cells of other sizes" in other.stderr


def test_an_unknown_grid_is_one_clear_line(tmp_path):
    done = cli("lab", "--grids", "z", "--out", tmp_path / "lab")
    assert done.returncode == 2
    assert "grid 'z' is unknown" in done.stderr
    assert not (tmp_path / "lab").exists()


def test_the_gates_table_is_printed():
    done = cli("gate", "--tau", "2")
    assert done.returncode == 0
    assert "halves at r = 1.881 and at r = 0.119" in done.stdout
    assert cli("gate", "--gate", "sigmoidal").returncode == 2
    assert cli("gate", "--tau", "0").returncode == 2
