"""Shared by both toolkits' processes in the whole-step benchmark: turns, clock, data, reward."""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sapo_vl.config import CONFIGS, Config, load
from sapo_vl.data import store
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.synthetic import SyntheticOptions
from sapo_vl.model.usable_samples import UsableSamples

MARK = "@step "
"""Prefix of lines for the parent process; other lines are library output."""

MAIN = CONFIGS / "train" / "main.yaml"

NOTHING_BESIDE_STEPS = {
    "run.rollouts_every": 0,
    "evaluation.every": 0,
    "checkpoint.every": 10**9,
    "collapse.action": "ignore",  # its thresholds are for real rewards
}
"""Settings that turn off checkpoints, evaluations and rollout files during the timed steps."""


class PhaseClock:
    """Wall and CPU seconds of a step by phase; a nested phase does not count in the outer one."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = (time.perf_counter(), time.process_time())

    def start(self) -> None:
        """Reset and begin a step; time outside any phase counts as `update`."""
        self.wall.clear()
        self.cpu.clear()
        self._stack = ["update"]
        self._since = (time.perf_counter(), time.process_time())

    def phase(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `work` so that its time is booked under `name`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            self._book()
            self._stack.append(name)
            try:
                return work(*arguments, **options)
            finally:
                self._book()
                self._stack.pop()

        return timed

    def seconds(self) -> dict[str, dict[str, float]]:
        """Return the seconds so far, by clock ("wall", "cpu") and phase."""
        self._book()
        return {"wall": dict(self.wall), "cpu": dict(self.cpu)}

    def _book(self) -> None:
        now = (time.perf_counter(), time.process_time())
        if self._stack:
            self.wall[self._stack[-1]] += now[0] - self._since[0]
            self.cpu[self._stack[-1]] += now[1] - self._since[1]
        self._since = now


def report_to_parent(measured: dict[str, Any]) -> None:
    """Send one JSON line to the parent."""
    print("\n" + MARK + json.dumps(measured), flush=True)


def wait_for_parent() -> None:
    """Block until the parent signals the next step."""
    sys.stdin.readline()


def coin(text: str) -> float:
    """Return a reward of 0 or 1 that depends only on the text."""
    return float(zlib.crc32(text.encode()) & 1)


def configuration(options: dict[str, Any]) -> Config:
    """Return the main job's configuration with the benchmark's sizes."""
    sizes = {
        "run.dir": Path(options["work_dir"]) / "run",
        "model.path": options["model"],
        "rollout.prompts": options["prompts"],
        "rollout.group_size": options["group"],
        "rollout.max_new_tokens": options["max_new_tokens"],
        "algorithm.num_mini_batches": options["mini_batches"],
        **NOTHING_BESIDE_STEPS,
    }
    return load(MAIN, [f"{key}={value}" for key, value in sizes.items()])


def samples(options: dict[str, Any], out: Path) -> UsableSamples:
    """Generate the synthetic problems of all steps in `out`; the same for both toolkits."""
    count = options["prompts"] * options["steps"]
    prepare("synthetic", PrepareOptions(out), SyntheticOptions(seed=0, count=count, test_count=1))
    return UsableSamples(store.load(out, "train"), range(count))
