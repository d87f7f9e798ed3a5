"""`sapo-vl compare A B`: two models on the same problems, with a paired test.

A and B are scored files (`sapo-vl score --out`) or output folders of `sapo-vl benchmark`; each file
holds one model. The table shows the accuracy of both, the difference with its bootstrap interval,
the problems gained and lost, and the p-value (exact McNemar with one sample per problem, sign flips
with several, per problem or per family of variants). The last line on stdout is one JSON object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks.protocol import problem_key
from sapo_vl.evaluation.stats import Paired, paired
from sapo_vl.runs.progress import table

SCORED = "scored.jsonl"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One model on one benchmark, by problem."""

    samples: dict[str, list[bool]]  # verdicts of the problem's samples
    families: dict[str, str]  # a problem -> the family it is resampled with; see stats.py


def main(first: Path, second: Path) -> dict[str, Any]:
    """Print the paired table and return the JSON object of the last line."""
    left, right = _load(first), _load(second)
    names = [name for name in left if name in right]
    if not names:
        raise DataError(
            f"{first} and {second} have no benchmark in common: {sorted(left)} and {sorted(right)}"
        )
    rows: list[list[str]] = []
    result: dict[str, Any] = {"first": str(first), "second": str(second), "benchmarks": {}}
    for name in names:
        try:
            a, b = left[name], right[name]
            comparison = paired(a.samples, b.samples, a.families)
        except ValueError as error:
            raise DataError(f"{first} and {second}, {name}: {error}") from error
        rows.append(_row(name, comparison))
        result["benchmarks"][name] = asdict(comparison) | {
            "only_first": len(a.samples.keys() - b.samples.keys()),
            "only_second": len(b.samples.keys() - a.samples.keys()),
        }
    columns = ["benchmark", "problems", "A", "B", "B - A", "95 % interval", "gained", "lost", "p"]
    table(f"A = {first}, B = {second}", columns, rows)
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


def _load(path: Path) -> Mapping[str, Verdicts]:
    """Return the verdicts by benchmark; a lone file is the benchmark "all"."""
    if path.is_file():
        return {"all": _verdicts(path)}
    files = sorted(path.glob(f"*/{SCORED}")) if path.is_dir() else []
    if not files:
        raise DataError(f"{path} is neither a scored file nor a folder with */{SCORED}")
    return {file.parent.name: _verdicts(file) for file in files}


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
