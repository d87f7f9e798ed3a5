"""Adapters' folders in shared memory: whose they are, and what a killed process leaves."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest
from helpers import environment, tiny_config

from sapo_vl.errors import SetupError
from sapo_vl.generator import adapter_folder
from sapo_vl.generator.adapter_folder import AdapterFolder
from sapo_vl.model import lora
from sapo_vl.runs.lock import LOCK_FILE

OWNER = """
import sys, time
from pathlib import Path
from sapo_vl.errors import SetupError
from sapo_vl.generator import adapter_folder
from sapo_vl.generator.adapter_folder import AdapterFolder
from sapo_vl.model import lora

adapter_folder.SHARED_MEMORY = Path(sys.argv[1])
root, lock = adapter_folder.make_root()
(root / "v1").mkdir()
print(root, flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """Return a process that owns a folder below tmp_path, and the folder's name."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()


def test_a_killed_process_leaves_nothing_for_long(owner, tmp_path, monkeypatch):
    """While its owner lives the folder stays; so do folders that are not ours."""
    process, name = owner
    monkeypatch.setattr(adapter_folder, "SHARED_MEMORY", tmp_path)
    others = [tmp_path / "psm_1", tmp_path / f"{adapter_folder.PREFIX}without-a-lock"]
    for folder in others:
        folder.mkdir()
    first, lock = adapter_folder.make_root()
    theirs = tmp_path / name
    assert theirs.parent == tmp_path
    assert str(process.pid) in theirs.name
    assert (theirs / "v1").is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    second, own = adapter_folder.make_root()
    assert {first, second, *others} == set(tmp_path.iterdir())
    assert (first / LOCK_FILE).is_file()
    lock.close()
    own.close()


def test_full_memory_is_one_line_that_names_the_folder(tmp_path, monkeypatch, assets, tiny_folder):
    monkeypatch.setattr(adapter_folder, "SHARED_MEMORY", tmp_path)
    folder = AdapterFolder(assets, tiny_config(tiny_folder, "model.lora.rank=8").model)

    def fill(path, weights, settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lora, "write_adapter", fill)
    with pytest.raises(SetupError, match=f"--shm-size.*{tmp_path}"):
        folder.write([])
    folder.close()
    assert list(tmp_path.iterdir()) == []
