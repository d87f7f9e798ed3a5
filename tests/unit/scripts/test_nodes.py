"""The launchers of several machines: SAPO_HOSTFILE of train_vl.sh."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launchers import launch, make_program

RUNNER = (
    "-m deepspeed.launcher.runner --hostfile {} --no_local_rank --master_addr {} --master_port {}"
)


@pytest.fixture
def hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# two machines\nnode7 slots=8\n\nnode9  slots=4\n")
    return file


@pytest.fixture
def path(tmp_path):
    """A PATH with pdsh."""
    make_program(tmp_path / "bin" / "pdsh", "#!/bin/sh\n")
    return f"{tmp_path / 'bin'}:{os.environ['PATH']}"


def test_deepspeed_reaches_the_other_machines_by_pdsh(checkout, hosts, path):
    check, start = launch(checkout, "train_vl.sh", "a.b=1", SAPO_HOSTFILE=str(hosts), PATH=path)
    assert check == "-m sapo_vl.cli train --dry-run a.b=1"
    runner = RUNNER.format(hosts, "node7", 29500)
    assert start == f"{runner} --module sapo_vl.cli train a.b=1"


def test_pdsh_is_needed_unless_each_machine_starts_itself(checkout, hosts, tmp_path, capfd):
    programs = tmp_path / "few"
    programs.mkdir()
    for name in ("bash", "sed", "wc", "awk", "readlink", "dirname", "nproc", "pgrep", "setsid"):
        os.symlink(f"/usr/bin/{name}", programs / name)
    variables = {"SAPO_HOSTFILE": str(hosts), "PATH": str(programs)}
    assert launch(checkout, "train_vl.sh", **variables) == ["exit 2"]
    assert "pdsh is missing" in capfd.readouterr().err
    (call,) = launch(checkout, "train_vl.sh", "a.b=1", SAPO_NODE="1", **variables)
    runner = RUNNER.format(hosts, "node7", 29500)
    assert call == f"{runner} --no_ssh --node_rank 1 --module sapo_vl.cli train a.b=1"


def test_the_first_machine_checks_and_the_users_meeting_place_is_taken(checkout, hosts):
    place = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4711", "SAPO_NODE": "0"}
    calls = launch(checkout, "train_vl.sh", SAPO_HOSTFILE=str(hosts), **place)
    assert calls[0] == "-m sapo_vl.cli train --dry-run"
    assert calls[1].startswith(RUNNER.format(hosts, "10.0.0.7", 4711) + " --no_ssh --node_rank 0 ")
    calls = launch(checkout, "train_vl.sh", "wrong.key=1", SAPO_HOSTFILE=str(hosts), **place)
    assert calls == ["-m sapo_vl.cli train --dry-run wrong.key=1", "exit 2"]


def test_a_file_of_one_machine_is_this_machine(checkout, tmp_path):
    (tmp_path / "one").write_text("here slots=2\n")
    _, call = launch(checkout, "train_vl.sh", SAPO_HOSTFILE=str(tmp_path / "one"))
    assert "--no_ssh --node_rank 0" in call


@pytest.mark.parametrize(
    ("text", "node", "told"),
    [
        (None, "0", "can't be read"),
        ("node7\nnode9\n", "0", "HOST slots=RANKS"),
        ("node7 slots=8\nnode9 slots=8\n", "2", "SAPO_NODE=2"),
        ("node7 slots=8\nnode9 slots=8\n", "node9", "SAPO_NODE=node9"),
    ],
)
def test_a_wrong_hostfile_or_line_is_refused(checkout, tmp_path, capfd, text, node, told):
    file = tmp_path / "hosts"
    if text is not None:
        file.write_text(text)
    assert launch(checkout, "train_vl.sh", SAPO_HOSTFILE=str(file), SAPO_NODE=node) == ["exit 2"]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("train_vl.sh:")
    assert told in line


RANKS = """#!/usr/bin/env bash
# DeepSpeed's runner starts its launcher, which starts two ranks and ends with a rank's code.
case "$*" in
*--dry-run*) ;;
*deepspeed.launcher.runner*) "$0" launcher ;;
launcher)
  trap 'echo "the launcher got a signal" >> "$CALLS"' TERM INT
  "$0" rank & "$0" rank &
  while true; do wait -n && exit 0 || code=$?; ((code == 143)) && exit 143; done ;;
rank)
  trap 'sleep 0.3; echo checkpoint >> "$CALLS"; exit 143' TERM
  echo ready >> "$CALLS"
  while true; do sleep 0.05; done ;;
esac
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_ranks_and_not_deepspeeds_launchers(checkout, hosts, sent):
    """They would send a second signal, on which ranks end at once, and kill after 30 seconds."""
    make_program(checkout / "venv" / "bin" / "python", RANKS)
    calls = checkout / "calls"
    calls.write_text("")
    variables = {"CALLS": str(calls), "SAPO_HOSTFILE": str(hosts), "SAPO_NODE": "0"}
    process = subprocess.Popen(
        ["bash", checkout / "scripts" / "train_vl.sh"],
        env=os.environ | variables,
        # A shell can't trap what it inherits as ignored, as SIGINT is in the background.
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    )
    try:
        _await(calls, ["ready"] * 2)
        process.send_signal(sent)
        assert process.wait(timeout=60) == 143
        _await(calls, ["ready"] * 2 + ["checkpoint"] * 2)
    finally:
        process.kill()


def _await(file: Path, lines: list[str]) -> None:
    deadline = time.monotonic() + 10
    while file.read_text().splitlines() != lines and time.monotonic() < deadline:
        time.sleep(0.02)
    assert file.read_text().splitlines() == lines
