"""`sapo-vl compare A B`: two models on the same problems, with a paired test.

A and B are scored files (`sapo-vl score --out`), output folders of `sapo-vl benchmark`, output
folders of `sapo-vl evaluate`, or runs. Of a run its evaluation after training is taken; with A
alone, a run, before is compared with after. Each file holds one model.

The table shows the accuracy of both, the difference with its bootstrap interval, the problems
gained and lost, and the p-value (exact McNemar with one sample per problem, sign flips with
several, per problem or per family of variants). Held-out problems come as a whole, greedy, and by
task. Problems that only one side has a verdict on are left out and counted. The last line on stdout
is one JSON object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.errors import DataError, printable
from sapo_vl.evaluation import graded
from sapo_vl.evaluation.benchmarks.protocol import problem_key
from sapo_vl.evaluation.graded import HeldOut
from sapo_vl.evaluation.stats import Paired, paired
from sapo_vl.runs.progress import table

SCORED = "scored.jsonl"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One model on one benchmark, by problem."""

    samples: dict[str, list[bool]]  # verdicts of the problem's samples
    families: dict[str, str] = field(default_factory=dict)  # problem -> family; see stats.py


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: its name, and its verdicts by benchmark."""

    name: str
    verdicts: Mapping[str, Verdicts]
    held_out: HeldOut | None = None  # where the verdicts are those of held-out problems


def main(first: Path, second: Path | None = None) -> dict[str, Any]:
    """Print the paired table and return the JSON object of the last line.

    Raises DataError when an argument is nothing that can be compared, or the problems differ.
    """
    if second is None and not _is_run(first):
        raise DataError(f"{first} is not a run: name a second folder or file to compare it with")
    a = _side(first, "after" if second else "before")
    b = _side(second or first, "after")
    names = [name for name in a.verdicts if name in b.verdicts]
    if not names:
        raise DataError(
            f"{a.name} and {b.name} have no benchmark in common: {sorted(a.verdicts)} and "
            f"{sorted(b.verdicts)}"
        )
    notes: list[str] = []
    if a.held_out and b.held_out:
        graded.check_same_problems(a.held_out, b.held_out)
        notes = [
            f"evaluated with other settings, {difference}"
            for difference in graded.differences(a.held_out, b.held_out)
        ]
    rows: list[list[str]] = []
    result: dict[str, Any] = {"first": a.name, "second": b.name, "benchmarks": {}, "notes": notes}
    for name in names:
        left, right = a.verdicts[name].samples, b.verdicts[name].samples
        try:
            comparison = paired(left, right, a.verdicts[name].families)
        except ValueError as error:
            raise DataError(f"{a.name} and {b.name}, {name}: {error}") from error
        only = len(left.keys() - right.keys()), len(right.keys() - left.keys())
        if any(only):
            notes.append(f"{name}: problems left out: {only[0]} of A alone, {only[1]} of B alone")
        rows.append(_row(name, comparison))
        result["benchmarks"][name] = asdict(comparison) | {
            "only_first": only[0],
            "only_second": only[1],
        }
    columns = ["benchmark", "problems", "A", "B", "B - A", "95 % interval", "gained", "lost", "p"]
    table(f"A = {a.name}, B = {b.name}", columns, rows)
    for note in notes:
        print(f"note: {printable(note)}")
    return result


def _row(name: str, comparison: Paired) -> list[str]:
    low, high = comparison.ci95
    return [
        name,
        str(comparison.problems),
        f"{100 * comparison.first:.2f} %",
        f"{100 * comparison.second:.2f} %",
        f"{100 * comparison.difference:+.2f}",
        f"{100 * low:+.2f} to {100 * high:+.2f}",
        str(comparison.gained),
        str(comparison.lost),
        f"{comparison.p_value:.4f}",
    ]


def _side(path: Path, name: str) -> Side:
    """Return the verdicts of a file or folder; `name` is the evaluation taken of a run."""
    if path.is_file():
        return Side(str(path), {"all": _verdicts(path)})
    if _is_run(path):
        held_out = graded.of_run(path, name)
        if held_out is None:
            raise DataError(
                f"{path} is a run without a finished evaluation eval/{name}.json: continue it with "
                "--resume, or evaluate its model with `sapo-vl evaluate`"
            )
        return Side(f"{path} {name} training", _held_out(held_out), held_out)
    files = sorted(path.glob(f"*/{SCORED}")) if path.is_dir() else []
    if files:
        return Side(str(path), {file.parent.name: _verdicts(file) for file in files})
    held_out = graded.of_folder(path)
    if held_out is None:
        raise DataError(
            f"{path} is neither a scored file, nor a run, nor a folder with */{SCORED} of "
            "`sapo-vl benchmark` or a finished responses.jsonl of `sapo-vl evaluate`"
        )
    return Side(str(path), _held_out(held_out), held_out)


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _held_out(found: HeldOut) -> dict[str, Verdicts]:
    """Return the verdicts on all problems, sampled and greedy, and by task."""
    wanted: dict[str, tuple[str, str | None]] = {
        "held-out": ("sampled", None),
        "held-out greedy": ("greedy", None),
    }
    wanted |= {f"task {task}": ("sampled", task) for task in found.tasks()}
    verdicts = {name: Verdicts(found.verdicts(mode, task)) for name, (mode, task) in wanted.items()}
    return {name: values for name, values in verdicts.items() if values.samples}


def _verdicts(path: Path) -> Verdicts:
    samples: dict[str, list[bool]] = defaultdict(list)
    families, models = {}, set()
    seen: dict[tuple[str, ...], str] = {}
    for where, row in read_jsonl(path):
        for key in ("model", "problem_id", "correct"):
            if key not in row:
                raise DataError(f"{where}: the key {key!r} is missing; score it first")
        correct, meta = row["correct"], row.get("meta") or {}
        if not isinstance(correct, bool | None) or not isinstance(meta, dict):
            raise DataError(f"{where}: not a line of `sapo-vl score`; score it first")
        model, run = str(row["model"]), str(row.get("run", ""))
        name = problem_key(row["problem_id"], row.get("variant"))
        same = (model, run, name, str(row.get("sample", 0)))
        if same in seen:
            raise DataError(f"{where}: problem {name!r}, the same sample as {seen[same]}")
        seen[same] = where
        models.add((model, run))
        if correct is not None:
            samples[name].append(correct)
            families[name] = str(meta.get("problem_index", row["problem_id"]))
    if len(models) > 1:
        names = ", ".join(sorted(" ".join(filter(None, m)) for m in models))
        raise DataError(f"{path} holds {len(models)} models or runs, not one: {names}")
    if not samples:
        raise DataError(f"{path} holds no verdicts")
    return Verdicts(dict(samples), families)
