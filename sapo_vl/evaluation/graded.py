"""Graded held-out responses as stored, without torch: who writes them is heldout.py.

    RUN/eval/before.jsonl after.jsonl step_000020.jsonl     with a summary beside each, NAME.json
    OUT/responses.jsonl                                     of `sapo-vl evaluate`, with summary.json

The summary is written last: responses without one belong to an evaluation that was cut off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.errors import DataError
from sapo_vl.runs.files import read_json

MODES = ("sampled", "greedy")


class GradedResponse(TypedDict):
    """One line of the responses file."""

    id: str  # the sample's
    task: str
    mode: str  # one of MODES
    correct: bool | None  # None: no verdict
    cause: str | None  # of a missing verdict
    reason: str  # of the first term's verdict, in words
    answer: str
    response: str


NEEDED = ("id", "task", "mode", "correct", "answer", "response")
"""Keys without which a line is none of ours; `reason` is missing in files of older versions."""


@dataclass(frozen=True)
class HeldOut:
    """One model's responses to the held-out problems."""

    path: Path  # of the responses
    rows: list[GradedResponse]
    summary: Mapping[str, Any]  # heldout.Accuracy.summary, and in a run `step` and `settings`
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the figures depend on

    def verdicts(self, mode: str, task: str | None = None) -> dict[str, list[bool]]:
        """Return the verdicts by problem, of one task or of all; missing ones are left out."""
        found: dict[str, list[bool]] = defaultdict(list)
        for row in self.rows:
            if row["mode"] == mode and task in (None, row["task"]) and row["correct"] is not None:
                found[row["id"]].append(row["correct"])
        return dict(found)

    def tasks(self) -> list[str]:
        """Return the tasks' names, sorted."""
        return sorted({row["task"] for row in self.rows})

    def golds(self) -> dict[str, str]:
        """Return the gold answer of each problem."""
        return {row["id"]: row["answer"] for row in self.rows}


def of_run(run_dir: Path, name: str) -> HeldOut | None:
    """Return a run's evaluation `name` (before, after, step_000020); None until it is finished.

    Raises DataError when one of its two files is damaged.
    """
    folder = run_dir / "eval"
    summary = _summary(folder / f"{name}.json")
    if summary is None or not (folder / f"{name}.jsonl").is_file():
        return None
    rows = read(folder / f"{name}.jsonl")
    return HeldOut(folder / f"{name}.jsonl", rows, summary, summary.get("settings") or {})


def of_folder(folder: Path) -> HeldOut | None:
    """Return what `sapo-vl evaluate --out FOLDER` wrote; None if that isn't there, or not whole.

    Raises DataError when one of its files is damaged.
    """
    summary, path = _summary(folder / "summary.json"), folder / "responses.jsonl"
    if summary is None or not path.is_file():
        return None
    return HeldOut(path, read(path), summary, _summary(folder / "settings.json") or {})


def read(path: Path) -> list[GradedResponse]:
    """Return the lines of a responses file. Raises DataError, naming the line and the key."""
    rows = []
    for where, row in read_jsonl(path):
        for key in NEEDED:
            if key not in row:
                raise DataError(f"{where}: the key {key!r} is missing: not a held-out response")
        if row["mode"] not in MODES or not isinstance(row["correct"], bool | None):
            raise DataError(f"{where}: not a line of a held-out evaluation")
        texts = {key: str(row[key]) for key in ("id", "task", "answer", "response")}
        rows.append(cast(GradedResponse, {"cause": None, "reason": "", **row, **texts}))
    return rows


def check_same_problems(first: HeldOut, second: HeldOut) -> None:
    """Raise DataError when the two share no problem, or one id means two problems."""
    a, b = first.golds(), second.golds()
    common = [name for name in a if name in b]
    if not common:
        raise DataError(
            f"{first.path} and {second.path} have no problem in common ({_some(a)} and "
            f"{_some(b)}): they were evaluated on other data"
        )
    for name in common:
        if a[name] != b[name]:
            raise DataError(
                f"{first.path} and {second.path}: problem {name!r} has the answer "
                f"{a[name]!r:.60} in one and {b[name]!r:.60} in the other: they were evaluated on "
                "other data"
            )


def differences(first: HeldOut, second: HeldOut) -> list[str]:
    """Return the settings that differ, each as `temperature: 1.0 and 0.6`."""
    a, b = _comparable(first.settings), _comparable(second.settings)
    return [f"{key}: {a[key]} and {b[key]}" for key in a if key in b and a[key] != b[key]]


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change a figure's meaning; rewards as [[fn, weight]] everywhere."""
    kept = ("samples", "temperature", "max_new_tokens", "blank", "rewards")
    found = {key: settings[key] for key in kept if key in settings}
    if "rewards" in found:
        found["rewards"] = [
            [term.get("fn"), term.get("weight")] if isinstance(term, dict) else term
            for term in found["rewards"]
        ]
    return found


def _summary(path: Path) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return value if isinstance(value, dict) else None


def _some(golds: Mapping[str, str]) -> str:
    names: Sequence[str] = list(golds)[:2]
    return ", ".join([*map(repr, names), *([".."] if len(golds) > 2 else [])]) or "none at all"
