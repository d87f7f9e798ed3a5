"""What a toolkit's process needs in the comparison of whole steps: turns, clocks, data, reward."""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sapo_vl import config as configs
from sapo_vl.config import Config
from sapo_vl.data import store
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.synthetic import SyntheticOptions
from sapo_vl.schema import Sample

MARK = "@step "
"""Begins a line for the parent; all others are a library's talk."""

MAIN = configs.CONFIGS / "train" / "main.yaml"


NOTHING_BESIDE_STEPS = {
    "run.rollouts_every": 0,
    "evaluation.every": 0,
    "checkpoint.every": 10**9,
    "collapse.action": "ignore",  # its thresholds are for real rewards, not for a coin's
}
"""Settings that keep files and evaluations out of the steps; what remains is not timed."""


class Book:
    """Seconds by phase of one step, wall and CPU; inner phases are taken out of outer ones."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = (time.perf_counter(), time.process_time())

    def start(self) -> None:
        """Forget all and begin a step; time outside any phase counts as `update`."""
        self.wall.clear()
        self.cpu.clear()
        self._inside = ["update"]
        self._since = (time.perf_counter(), time.process_time())

    def phase(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` with its time booked under `name`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            self._turn()
            self._inside.append(name)
            try:
                return work(*arguments, **options)
            finally:
                self._turn()
                self._inside.pop()

        return timed

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the seconds so far."""
        self._turn()
        return {"wall": dict(self.wall), "cpu": dict(self.cpu)}

    def _turn(self) -> None:
        now = (time.perf_counter(), time.process_time())
        if self._inside:
            self.wall[self._inside[-1]] += now[0] - self._since[0]
            self.cpu[self._inside[-1]] += now[1] - self._since[1]
        self._since = now


def say(figures: dict[str, Any]) -> None:
    """Tell the parent."""
    print("\n" + MARK + json.dumps(figures), flush=True)


def wait() -> None:
    """Wait for the parent's word."""
    sys.stdin.readline()


def coin(text: str) -> float:
    """Return 0 or 1, the same for the same text."""
    return float(zlib.crc32(text.encode()) & 1)


def configuration(options: dict[str, Any]) -> Config:
    """Return the main job's configuration with the comparison's sizes."""
    sizes = {
        "run.dir": Path(options["place"]) / "run",
        "model.path": options["model"],
        "rollout.prompts": options["prompts"],
        "rollout.group_size": options["group"],
        "rollout.max_new_tokens": options["max_new_tokens"],
        "algorithm.num_mini_batches": options["mini_batches"],
        **NOTHING_BESIDE_STEPS,
    }
    return configs.load(MAIN, [f"{key}={value}" for key, value in sizes.items()])


def samples(options: dict[str, Any], out: Path) -> list[Sample]:
    """Draw the procedural problems of all steps into `out`; the same for both toolkits."""
    count = options["prompts"] * options["steps"]
    prepare("synthetic", PrepareOptions(out), SyntheticOptions(seed=0, count=count, test_count=1))
    return list(store.load(out, "train"))
