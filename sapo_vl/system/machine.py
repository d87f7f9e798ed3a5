"""Detects the machine and sets environment variables that torch and vLLM read at import.

The reasons, measured on CPU machines: one thread per process, because the matrices of small models
are slower with two; no dynamo, because compiling helpers costs 12 s at the first request; vLLM's
engine in this process, because importing it a second time costs as much as all the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import warnings
from functools import cache
from pathlib import Path

from sapo_vl.errors import SetupError

CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
GPU_ENVIRONMENT = {
    # Micro-batches differ in length: without it freed blocks fit no later request and pile up.
    # vLLM switches it off in its own pool.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
COMMON_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # apply_model sends a function of ours to the worker
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # a dozen lines of retries hide the one that says what is wrong
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

DRIVER_OF_CUDA = {13: 580, 12: 525}
"""Oldest driver that runs programs of a CUDA major version, by NVIDIA's compatibility guide:
docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html."""


@cache
def gpu_count() -> int:
    """Return how many NVIDIA GPUs a process started now may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    no_driver = shutil.which("nvidia-smi") is None
    if no_driver and "CROSS_RANK" in os.environ:
        return 0  # a rank of DeepSpeed's launcher, which sets the variable on CPUs too
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() not in ("", "-1")])
    if no_driver:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.stdout.count("GPU ") if listing.returncode == 0 else 0


def prepare_environment() -> None:
    """Set the variables above where the user has not; call it before torch or vllm is imported."""
    settings = COMMON_ENVIRONMENT | (CPU_ENVIRONMENT if gpu_count() == 0 else GPU_ENVIRONMENT)
    if "PYTORCH_CUDA_ALLOC_CONF" in os.environ:  # the user's, under its older name
        settings.pop("PYTORCH_ALLOC_CONF", None)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def check_gpu() -> None:
    """Check that PyTorch and Triton can use the machine's GPUs; without a GPU there is no check.

    Triton, which vLLM and FlexAttention use, compiles its launchers with a C compiler and Python's
    headers. Raises SetupError, which names what is missing.
    """
    if gpu_count() == 0:
        return
    import torch

    if not torch.cuda.is_available():
        raise SetupError(why_no_cuda(torch.version.cuda, driver_version()))
    _check_compiler()


def driver_version() -> str | None:
    """Return the NVIDIA driver's version, such as 570.86.10; None where it can't be found out."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = answer.stdout.split()
    return lines[0] if answer.returncode == 0 and lines else None


def why_no_cuda(cuda: str | None, driver: str | None) -> str:
    """Return one line about a machine whose GPUs PyTorch can't use.

    `cuda` is the version that PyTorch is built for, None for a CPU build; `driver` the driver's.
    """
    on_cpu = "or set CUDA_VISIBLE_DEVICES= to use the CPU"
    if cuda is None:
        return (
            "this machine has a GPU and PyTorch is built for CPUs: run SAPO_EXTRA=gpu bash "
            f"scripts/setup.sh, {on_cpu}"
        )
    needed = DRIVER_OF_CUDA.get(int(cuda.partition(".")[0]))
    if driver is not None and needed is not None and int(driver.partition(".")[0]) < needed:
        return (
            f"the NVIDIA driver {driver} is too old: PyTorch is built for CUDA {cuda}, which needs "
            f"driver {needed} or newer; update it, {on_cpu}"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = "" if visible is None else f" that CUDA_VISIBLE_DEVICES={visible} names"
    return (
        f"PyTorch (CUDA {cuda}, driver {driver or 'unknown'}) can't use the GPUs{named}: python -c "
        f'"import torch; torch.cuda.init()" says why; {on_cpu.removeprefix("or ")}'
    )


def _check_compiler() -> None:
    """Raise SetupError when Triton would find no C compiler or no Python.h; see its build.py."""
    chosen = os.environ.get("CC")
    if chosen is not None and shutil.which(chosen) is None:
        raise SetupError(f"CC={chosen} is not a program; Triton needs a C compiler on a GPU")
    if chosen is None and not any(map(shutil.which, ("gcc", "clang"))):
        raise SetupError(
            "no C compiler on PATH, which Triton needs on a GPU: install the package gcc, or name "
            "a compiler in the variable CC"
        )
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme names /usr/local, where there are no headers
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    if not header.exists():
        version = sysconfig.get_python_version()
        raise SetupError(
            f"{header} is missing, which Triton needs on a GPU: install the package "
            f"python{version}-dev (Debian, Ubuntu) or python{version}-devel (Fedora, RHEL)"
        )
