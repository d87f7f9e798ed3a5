"""The launcher of one machine's ranks: environment, exit codes, signals, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import environment

from sapo_vl.system import launch
from sapo_vl.system.launch import first_to_say

RANK = """
import os, signal, sys, time
from pathlib import Path
rank, folder = os.environ["RANK"], Path(sys.argv[1])
def stop(signum, frame):
    (folder / f"stopped-{rank}").write_text(str(signum))
    sys.exit(128 + signum)
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, stop)
(folder / f"pid-{rank}").write_text(str(os.getpid()))
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def started(tmp_path: Path) -> tuple[subprocess.Popen, list[int]]:
    """Start a launcher of two ranks that wait; return it and the ranks' ids."""
    code = f"import sys; from sapo_vl.system.launch import launch; sys.exit(launch(\
[sys.executable, '-c', {RANK!r}, {str(tmp_path)!r}], 2))"
    process = subprocess.Popen(python(code), env=environment())
    files = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if all(file.exists() and file.read_text() for file in files):
            break
        time.sleep(0.02)
    return process, [int(file.read_text()) for file in files]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_each_rank_knows_its_number_and_where_they_meet(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = [
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "OMP_NUM_THREADS",
        "SAPO_STORE",
    ]
    code = f"import os; from pathlib import Path; v = [os.environ[n] for n in {names}]; \
Path({str(tmp_path)!r}, v[0]).write_text(' '.join(v)); \
assert os.stat(os.path.dirname(v[-1])).st_mode & 0o077 == 0"
    assert launch.launch(python(code), 3) == 0
    values = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [v[:5] for v in values] == [[str(r), str(r), "3", "3", "1"] for r in range(3)]
    (store,) = {v[5] for v in values}
    assert not Path(store).parent.exists()  # cleaned up


@pytest.mark.parametrize(("end", "code"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), 11)", 139)])
def test_the_failed_ranks_code_is_the_launchers_and_the_others_end(monkeypatch, end, code):
    monkeypatch.setattr(launch, "FAILURE_SECONDS", 0.1)
    rank = f"import os, sys, time\nif os.environ['RANK'] == '1': {end}\ntime.sleep(60)"
    begun = time.monotonic()
    assert launch.launch(python(rank), 2) == code
    assert time.monotonic() - begun < 20


def test_ranks_that_fail_alike_have_time_to_end(tmp_path):
    rank = f"import os, sys, time, pathlib; r = os.environ['RANK']; time.sleep(0.5 * int(r)); \
pathlib.Path({str(tmp_path)!r}, r).touch(); sys.exit(2)"
    assert launch.launch(python(rank), 2) == 2
    assert (tmp_path / "1").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_every_rank_once(tmp_path, signum):
    process, pids = started(tmp_path)
    process.send_signal(signum)
    assert process.wait(20) == 128 + signum
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in (0, 1)] == [str(int(signum))] * 2
    assert gone(pids)


def test_no_rank_outlives_a_killed_launcher(tmp_path):
    process, pids = started(tmp_path)
    process.kill()
    process.wait()
    assert gone(pids)
    assert not list(tmp_path.glob("stopped-*"))  # killed, not asked


def test_an_error_of_all_ranks_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SAPO_STORE", str(tmp_path / "store"))
    assert first_to_say("data.path: no such folder")
    assert not first_to_say("data.path: no such folder")
    assert first_to_say("data.path: another \udcff")
    monkeypatch.delenv("SAPO_STORE")
    assert all(first_to_say("a single process") for _ in range(2))


def test_without_the_folder_everyone_speaks(monkeypatch):
    monkeypatch.setenv("SAPO_STORE", "/nonexistent/store")
    assert all(first_to_say("x") for _ in range(2))
    assert os.environ["SAPO_STORE"]
