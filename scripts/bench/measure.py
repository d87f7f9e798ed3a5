"""Time, peak memory and floating-point operations of a function, on a CPU or a GPU.

Besides wall seconds, a CPU's are those of the process, which with one thread hardly depend on other
load; a GPU's are those between two CUDA events around the function. Peak memory is the kernel's
high-water mark, reset first (Linux only), or that of torch's CUDA allocator. A multiply-add counts
as two operations.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch

Result = TypeVar("Result")

GEMM_SIDE = {"cpu": 1024, "cuda": 8192}
"""Sides of the matrices whose product shows what a device reaches: float32, bfloat16 on a GPU."""

PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "H800": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
}
"""Part of a card's name -> dense bfloat16 TFLOP/s of its data sheet; the first that fits counts."""

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
RETURNED_AT_ONCE = 2**18  # bytes; smaller blocks don't matter here


class Seconds(NamedTuple):
    """One run's duration."""

    busy: float  # of the process on a CPU; between CUDA events on a GPU
    wall: float


def choose_device(name: str | None) -> torch.device:
    """Return the device `cpu` or `cuda`; None: the GPU if there is one.

    `cpu` hides the GPUs from this process, so that the learner takes the CPU too. Raises
    RuntimeError for `cuda` where torch finds none.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    elif name == "cuda":
        raise RuntimeError("torch finds no GPU here: choose the device cpu")
    return torch.device("cpu")


def timed(work: Callable[[], Any], device: torch.device) -> Seconds:
    """Run `work` once."""
    if device.type == "cuda":
        return _timed_by_events(work)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def _timed_by_events(work: Callable[[], Any]) -> Seconds:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    wall = time.perf_counter()
    start.record()  # type: ignore[no-untyped-call]
    work()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return Seconds(start.elapsed_time(end) / 1e3, time.perf_counter() - wall)


def isolated(work: Callable[..., Result], *arguments: Any, device: torch.device) -> Result:
    """Return the result of `work`, run in a fork on a CPU and in this process on a GPU.

    A fork leaves this process's memory unchanged, but can't use a GPU that this process has used;
    there the allocator's figures are reset instead.
    """
    if device.type != "cuda":
        return in_fork(work, *arguments)
    result = work(*arguments)
    torch.cuda.empty_cache()
    return result


def in_fork(work: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of `work` run in a forked process, so that this one's memory is unchanged.

    Raises RuntimeError if it fails; the child's traceback is on stderr.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        sender.send(work(*arguments))

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{work.__name__} failed, see the traceback above") from None
    process.join()
    return result


def peak_memory(work: Callable[[], Any], device: torch.device) -> float:
    """Return by how many MB the device's used memory rises above the current value during `work`.

    On a CPU it is resident memory, and malloc is told to return freed blocks to the system at once;
    otherwise blocks it caches, which depend on everything that ran before, would be counted too.
    """
    if device.type == "cuda":
        reset_peak()
        allocated = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - allocated) / 1e6
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, RETURNED_AT_ONCE)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    with open("/proc/self/status") as lines:
        return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def reset_peak() -> None:
    """Begin a new peak of the CUDA allocator, with no freed blocks kept."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def gemm_rate(device: torch.device, repeats: int = 7) -> float:
    """Return the GFLOP/s that a product of two square matrices reaches, see GEMM_SIDE."""
    side = GEMM_SIDE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = torch.rand(2, side, side, device=device, dtype=dtype).unbind()
    times = [timed(lambda: a @ b, device).busy for _ in range(repeats)]
    return 2 * side**3 / median(times[1:]) / 1e9


def peak_gflops(device: torch.device, tflops: float | None) -> tuple[float, str]:
    """Return the GFLOP/s that utilisation is measured against, and what they are.

    They are the given TFLOP/s, the card's of PEAK_TFLOPS, or those of `gemm_rate`.
    """
    if tflops is not None:
        return 1e3 * tflops, "given"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAK_TFLOPS.items():
            if part in name:
                return 1e3 * peak, f"of the {part}'s data sheet"
    return gemm_rate(device), "of a GEMM"


def flops(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the operations of all matrix products, convolutions and attention, and the result.

    Causal attention is counted in full, although its kernel skips half.
    """
    from torch.utils import flop_counter

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(q, k, v)

    def attention_backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, q, k, v)

    def addmm(accumulator: Any, a: Any, b: Any, **_: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    def convolution_backward(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
        return 2 * math.prod(grad) * math.prod(weight[1:]) * sum(rest[-1][:2])

    aten = torch.ops.aten
    mapping = {  # operators that FlopCounterMode does not cover, or counts as if without groups
        aten.convolution_backward: convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        aten.addmm_: addmm,
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        result = work()
    return float(counter.get_total_flops()), result


def load_average() -> float:
    """Return the machine's one-minute load average."""
    return os.getloadavg()[0]
