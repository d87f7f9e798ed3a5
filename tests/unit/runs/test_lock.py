"""A folder has one owner, who is named, and whose death in any way frees it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest
from helpers import environment

from sapo_vl.errors import ConfigError
from sapo_vl.runs.lock import FolderLock

HOLD = (
    "import sys, time; from pathlib import Path; from sapo_vl.runs.lock import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1]), 'run.dir'); print('held', flush=True); time.sleep(60)"
)


def test_the_second_owner_is_told_who_the_first_is(tmp_path):
    with FolderLock(tmp_path / "run", "run.dir"):
        with pytest.raises(ConfigError) as caught:
            FolderLock(tmp_path / "run", "run.dir")
        text = str(caught.value)
        assert f"run.dir={tmp_path / 'run'}" in text
        assert f"process {os.getpid()} on {socket.gethostname()}" in text
        assert "\n" not in text
    FolderLock(tmp_path / "run", "run.dir").close()


def test_a_killed_owner_leaves_the_folder_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {owner.pid} on"):
            FolderLock(tmp_path, "run.dir")
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    FolderLock(tmp_path, "run.dir").close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    lock = FolderLock(tmp_path, "run.dir")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"x")
        signal.pause()
    try:
        os.read(read, 1)
        lock.close()
        FolderLock(tmp_path, "run.dir").close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("rubbish", ["", "{", "[1]", '{"pid": "x", "host": 1}', "\x00" * 300])
def test_an_unreadable_owner_is_another_process(tmp_path, rubbish):
    path = tmp_path / ".lock"
    path.write_text(rubbish)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process"):
            FolderLock(tmp_path, "--out")
