"""Time, peak memory and floating-point operations of a function on a CPU.

Both CPU and wall seconds are measured: with one thread, CPU time hardly depends on other load. Peak
memory is the kernel's high-water mark, reset first (Linux only). A multiply-add counts as two
operations.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch

Result = TypeVar("Result")

GEMM_SIDE = 1024

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
RETURNED_AT_ONCE = 2**18  # bytes; smaller blocks don't matter here


class Seconds(NamedTuple):
    """One run's duration."""

    cpu: float
    wall: float


def timed(work: Callable[[], Any]) -> Seconds:
    """Run `work` once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


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


def peak_memory(work: Callable[[], Any]) -> float:
    """Return by how many MB resident memory rises above the current value while `work` runs.

    malloc is told to return freed blocks to the system at once; otherwise blocks it caches, which
    depend on everything that ran before, would be counted too.
    """
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, RETURNED_AT_ONCE)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    with open("/proc/self/status") as lines:
        return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def gemm_rate(repeats: int = 7) -> float:
    """Return the GFLOP per CPU second of a float32 product of two square matrices."""
    a, b = torch.rand(2, GEMM_SIDE, GEMM_SIDE).unbind()
    times = [timed(lambda: a @ b).cpu for _ in range(repeats)]
    return 2 * GEMM_SIDE**3 / median(times[1:]) / 1e9


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

    aten = torch.ops.aten
    mapping = {  # operators that FlopCounterMode does not cover
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
