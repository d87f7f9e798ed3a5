"""What the machine offers: environment variables, the driver, the compiler, cores for a rank."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from helpers import one_line

from sapo_vl.errors import SetupError
from sapo_vl.system import machine
from sapo_vl.system.machine import check_gpu, driver_version, prepare_environment, why_no_cuda

SMI = """#!/bin/sh
case "$*" in
  -L) echo "GPU 0: NVIDIA H100" ;;
  *driver_version*) echo "{driver}" ;;
esac
"""


@pytest.fixture
def one_gpu(tmp_path, monkeypatch):
    """Put an nvidia-smi on an otherwise empty PATH that lists a GPU; return its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder / "nvidia-smi", SMI.format(driver="570.86.10"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CC", raising=False)
    machine.gpu_count.cache_clear()
    yield folder
    machine.gpu_count.cache_clear()


def program(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.write_text(text)
    path.chmod(0o755)


def refusal() -> str:
    with pytest.raises(SetupError) as caught:
        check_gpu()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_gpu_nothing_is_checked(monkeypatch):
    assert machine.gpu_count() == 0
    monkeypatch.setenv("CC", "/nowhere/cc")
    check_gpu()


def test_a_driver_that_is_too_old_is_named_with_the_one_needed(one_gpu, monkeypatch):
    assert machine.gpu_count() == 1
    assert driver_version() == "570.86.10"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    text = refusal()
    assert "driver 570.86.10 is too old" in text
    assert "CUDA 13.0, which needs driver 580 or newer" in text


def test_deepspeeds_launcher_numbers_a_cpus_slots_as_gpus(one_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("CROSS_RANK", "1")
    assert machine.gpu_count() == 1
    (one_gpu / "nvidia-smi").unlink()
    machine.gpu_count.cache_clear()
    assert machine.gpu_count() == 0
    monkeypatch.delenv("CROSS_RANK")  # a container without the program, perhaps
    machine.gpu_count.cache_clear()
    assert machine.gpu_count() == 1


@pytest.mark.parametrize(
    ("cuda", "driver", "words"),
    [
        (None, "580.65.06", "SAPO_EXTRA=gpu bash scripts/setup.sh"),
        ("13.0", "579.99", "needs driver 580 or newer"),
        ("12.8", "470.57.02", "needs driver 525 or newer"),
        ("12.8", "525.60.13", "driver 525.60.13) can't use the GPUs: "),
        ("13.0", None, "driver unknown) can't use the GPUs: "),
        ("14.1", "570.1", "driver 570.1) can't use the GPUs: "),
    ],
)
def test_why_pytorch_cannot_use_a_gpu(cuda, driver, words, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    text = why_no_cuda(cuda, driver)
    assert words in text
    assert text.endswith("set CUDA_VISIBLE_DEVICES= to use the CPU")


def test_gpus_that_do_not_exist_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "the GPUs that CUDA_VISIBLE_DEVICES=7 names" in why_no_cuda("13.0", "580.65.06")


def test_a_missing_compiler_is_named(one_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    assert "install the package gcc" in refusal()
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert "CC=/nowhere/cc is not a program" in refusal()
    monkeypatch.delenv("CC")
    program(one_gpu / "clang")
    check_gpu()


def test_missing_headers_are_named(one_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    program(one_gpu / "gcc")
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = refusal()
    assert f"{tmp_path}/Python.h is missing" in text
    assert f"python{version}-dev (Debian" in text
    (tmp_path / "Python.h").touch()
    check_gpu()


def test_the_dry_run_says_it_before_ranks_start(one_gpu):
    """The plan is shown on machines without a GPU; with one that can't be used, it says so."""
    path = f"{one_gpu}{os.pathsep}{os.defpath}"
    line = one_line("train", "--dry-run", PATH=path)
    assert "PyTorch" in line
    assert "CUDA_VISIBLE_DEVICES= to use the CPU" in line


@pytest.mark.parametrize(
    ("gpu", "given", "expected"),
    [
        (True, {}, "expandable_segments:True"),
        (True, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        (True, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, None),
        (False, {}, None),
    ],
)
def test_the_allocator_grows_its_blocks_on_a_gpu(gpu, given, expected, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(machine, "gpu_count", lambda: int(gpu))
    prepare_environment()
    assert os.environ.get("PYTORCH_ALLOC_CONF") == expected
    assert os.environ.get("OMP_NUM_THREADS") == (None if gpu else "1")
