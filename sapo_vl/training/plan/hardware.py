"""The hardware that a plan is made for, and what this machine has free."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30

GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU; figures are its data sheet's, without sparsity."""

    name: str
    memory: float  # bytes that a process can use, below the card's nominal size
    flops: float  # bf16 tensor-core operations per second, float32 accumulation
    bandwidth: float  # bytes per second of the card's own memory
    link: float  # bytes per second and direction between two GPUs of a node, usable
    host_link: float = 25e9  # bytes per second and direction to pinned host memory, usable


# Memory: what torch.cuda.mem_get_info reports as total on each card, about 1 % below nvidia-smi's.
# FLOP/s and bandwidth: NVIDIA's data sheets (Ada architecture white paper for the RTX 4090, "L40S",
# "H100 Tensor Core GPU", "H200 Tensor Core GPU"). Links: NVLink 4 is 450 GB/s per direction, of
# which collectives reach about two thirds; PCIe 4.0 x16 is 32 GB/s.
GPUS = {
    24: Gpu("RTX 4090", 23.5 * GIB, 165e12, 1.01e12, 20e9, 20e9),
    48: Gpu("L40S", 44.4 * GIB, 362e12, 0.864e12, 20e9, 20e9),
    80: Gpu("H100 SXM", 79.1 * GIB, 989e12, 3.35e12, 300e9),
    141: Gpu("H200", 139.7 * GIB, 989e12, 4.8e12, 300e9),
}
"""By nominal size in GB."""

CPU = Gpu("CPU", float("inf"), 0.07e12, 20e9, 5e9, 5e9)
"""Per rank with one thread: 70 GFLOP/s of large products in float32 (docs/performance.md)."""


@dataclass(frozen=True)
class Hardware:
    """The devices of a run: one rank on each."""

    gpu: Gpu
    ranks: int
    ranks_here: int  # of them, ranks on one machine, which share its memory and disk
    is_cpu: bool = False

    @property
    def label(self) -> str:
        """E.g. `8 x H100 SXM`."""
        return f"{self.ranks} x {self.gpu.name}"


def gpus(size: int, ranks: int) -> Hardware:
    """Return `ranks` GPUs of the nominal size `size`, at most eight in one machine."""
    return Hardware(GPUS[size], ranks, min(ranks, GPUS_PER_NODE))


def cpu(ranks: int, ranks_here: int | None = None) -> Hardware:
    """Return ranks without GPUs: the learner's state lies in the machine's memory."""
    return Hardware(CPU, ranks, ranks if ranks_here is None else ranks_here, is_cpu=True)


ASSUMED = re.compile(r"^# Hardware: (\d+) GPUs? of (\d+) GB", re.MULTILINE)
"""The comment by which a config file names what it is written for."""


def assumed(config_file: Path | None) -> tuple[int, int] | None:
    """Return (GPUs, nominal GB) of a config file's line `# Hardware: 8 GPUs of 80 GB`, or None."""
    if config_file is None:
        return None
    found = ASSUMED.search(config_file.read_text(encoding="utf-8"))
    return (int(found[1]), int(found[2])) if found else None


def visible_size() -> int | None:
    """Return the nominal size of the first visible GPU: the nearest of GPUS; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    first = done.stdout.split("\n", 1)[0].strip()
    if done.returncode != 0 or not first.isdigit():
        return None
    mebibytes = int(first)
    return min(GPUS, key=lambda size: abs(size * 1000 - mebibytes))


def free_memory() -> int | None:
    """Return the bytes of host memory that processes can still get, or None if unknown.

    The smaller of the kernel's MemAvailable and what a memory limit of the container leaves.
    """
    limits = [
        limit - _counted(usage)
        for limit_file, usage in (
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            ),
        )
        if (limit := _number(limit_file)) is not None
    ]
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return min(limits, default=None)
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return min([*limits, *([int(found[1]) * 1024] if found else [])], default=None)


def _number(file: str) -> int | None:
    try:
        text = Path(file).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def _counted(usage_file: str) -> int:
    """Return what counts against a container's limit and can't be reclaimed: without file cache."""
    usage = _number(usage_file) or 0
    try:
        stat = Path(usage_file).with_name("memory.stat").read_text(encoding="ascii")
    except OSError:
        return usage
    files = dict(line.split()[:2] for line in stat.splitlines() if len(line.split()) == 2)
    return max(0, usage - int(files.get("inactive_file", 0)) - int(files.get("active_file", 0)))


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that `folder`, which may not exist yet, would lie on."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def ranks_here() -> int:
    """Return how many ranks of this run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
