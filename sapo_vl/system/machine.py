"""Detects the machine and sets environment variables that torch and vLLM read at import.

The reasons, measured on CPU machines: one thread per process, because the matrices of small models
are slower with two; no dynamo, because compiling helpers costs 12 s at the first request; vLLM's
engine in this process, because importing it a second time costs as much as all the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from functools import cache

CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
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


@cache
def gpu_count() -> int:
    """Return how many NVIDIA GPUs a process started now may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.stdout.count("GPU ") if listing.returncode == 0 else 0


def prepare_environment() -> None:
    """Set the variables above where the user has not; call it before torch or vllm is imported."""
    settings = COMMON_ENVIRONMENT | (CPU_ENVIRONMENT if gpu_count() == 0 else {})
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
