"""A run's folder as the report reads it: whatever is there, and a line for what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation import graded
from sapo_vl.evaluation.graded import HeldOut
from sapo_vl.runs import metrics, warning_log
from sapo_vl.runs.files import read_json
from sapo_vl.runs.metrics import MetricsRow
from sapo_vl.runs.record import flat
from sapo_vl.runs.warning_log import RunWarning

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedRun:
    """What the report knows of one run."""

    dir: Path
    name: str  # on the page: the folder's name, or as much of its path as tells runs apart
    settings: Mapping[str, Any]  # {dotted key: value} of config.yaml
    rows: Sequence[MetricsRow] = ()
    before: HeldOut | None = None
    after: HeldOut | None = None  # the newest evaluation, if the last one is still to come
    summary: Mapping[str, Any] = field(default_factory=dict)  # summary.json
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, over all starts
    warnings: Sequence[RunWarning] = ()
    alarms: Sequence[Mapping[str, Any]] = ()  # collapse.json
    final_step: int | None = None  # of RUN/final; None: no model has been exported
    faults: Sequence[str] = ()  # files that could not be read, each with its reason

    def of_phase(self, phase: str) -> list[MetricsRow]:
        """Return the rows of "sft", "train" or "eval"."""
        return [row for row in self.rows if row.get("phase") == phase]

    @property
    def steps_done(self) -> int:
        """Return the last training step in the metrics; 0 before the first."""
        return max((int(row["step"]) for row in self.of_phase("train")), default=0)

    @property
    def steps_planned(self) -> int | None:
        """Return rollout.steps."""
        steps = self.settings.get("rollout.steps")
        return steps if isinstance(steps, int) else None

    @property
    def is_complete(self) -> bool:
        """Whether the run has ended: its model, of the last step taken, and evaluation are there.

        An early stop ends a run before rollout.steps.
        """
        return self.final_step is not None and self.final_step == self.steps_done


def load(run_dir: Path, name: str) -> LoadedRun:
    """Read a run's folder. Raises ConfigError when it is none; other faults are noted, not raised.

    The configuration is read as plain YAML, so that a run of another version can be shown too.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not a run's folder: config.yaml is missing")
    faults: list[str] = []

    def part(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (DataError, ValueError, OSError, TypeError, KeyError) as error:
            faults.append(str(error) or repr(error))
            return otherwise

    rows: list[MetricsRow] = part(lambda: metrics.read(run_dir), [])
    after = part(lambda: graded.of_run(run_dir, "after"), None)
    if after is None:
        after = part(lambda: _newest_evaluation(run_dir, rows), None)
    stamp: dict[str, Any] = part(lambda: _mapping(run_dir / "final.json"), {})
    step = stamp.get("step")
    return LoadedRun(
        dir=run_dir,
        name=name,
        settings=part(lambda: _settings(path), {}),
        rows=rows,
        before=part(lambda: graded.of_run(run_dir, "before"), None),
        after=after,
        summary=part(lambda: _mapping(run_dir / "summary.json"), {}),
        versions=part(lambda: _mapping(run_dir / "versions.json"), {}),
        seconds=part(lambda: _numbers(_mapping(run_dir / "seconds.json")), {}),
        warnings=part(lambda: warning_log.read(run_dir), []),
        alarms=part(lambda: _alarms(run_dir / "collapse.json"), []),
        final_step=step if isinstance(step, int) else None,
        faults=faults,
    )


def names(folders: Sequence[Path]) -> list[str]:
    """Return a short name for each folder: the shortest ends of their paths that differ."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=1) + 1):
        found = ["/".join(path[-length:]) for path in parts]
        if len(set(found)) == len(set(parts)):
            return found
    raise AssertionError(folders)


def _newest_evaluation(run_dir: Path, rows: Sequence[MetricsRow]) -> HeldOut | None:
    """Return the last periodic evaluation of a run whose last one is still to come."""
    found = [str(row.get("name")) for row in rows if row.get("phase") == "eval"]
    periodic = [name for name in found if name.startswith("step_")]
    return graded.of_run(run_dir, periodic[-1]) if periodic else None


def _settings(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path} is empty or cut off")
    return flat(tree)


def _mapping(path: Path) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict | None):
        raise DataError(f"{path} is not a JSON object")
    return value or {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _alarms(path: Path) -> list[Mapping[str, Any]]:
    value = _json(path) or []
    if not isinstance(value, list) or not all(isinstance(alarm, dict) for alarm in value):
        raise DataError(f"{path} is not a list of alarms")
    return value


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
