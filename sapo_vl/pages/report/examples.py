"""Best and worst examples: held-out problems that changed most, and the last step's extremes.

From eval/*.jsonl, with problem and pictures from the data set where it still is, and from the last
step in rollouts/. All texts come from a model or a data set; the template escapes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sapo_vl.data import store
from sapo_vl.errors import DataError
from sapo_vl.evaluation.graded import GradedResponse, HeldOut
from sapo_vl.evaluation.report import clipped
from sapo_vl.pages.report.load import LoadedRun
from sapo_vl.pages.viewer.pictures import FILE_SIDE, picture
from sapo_vl.runs.pages import data_uri
from sapo_vl.schema import IMAGE_MARK, Sample

EXAMPLES = 3
"""Examples of each kind."""

MAX_PICTURES = 4
"""Pictures of an example."""

COLUMNS = (
    *("id", "task", "problem", "answer", "response", "finish_reason", "reward", "correct"),
    *("valid", "verdicts", "advantage"),
)
"""Of a rollouts file, besides `images`, which are read for the chosen rows alone."""

READ_AT_ONCE = 64
"""Rows whose pictures are in memory at a time."""


StoredRow = tuple[Path, int, dict[str, Any]]
"""A row of a rollouts file: the file, the row's number there, its values without pictures."""


@dataclass(frozen=True)
class ReportResponse:
    """One response on the page."""

    when: str  # before or after training, or its place in training
    verdict: str  # right, wrong or no verdict
    reason: str
    response: str


@dataclass(frozen=True)
class ReportProblem:
    """A problem with responses to it."""

    id: str
    task: str
    problem: str
    gold: str
    pictures: Sequence[str]  # data URIs
    headline: str  # what makes it an example
    answers: Sequence[ReportResponse]
    note: str = ""  # what is missing of it, and why


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of one kind."""

    heading: str
    text: str
    examples: Sequence[ReportProblem] = field(default_factory=list)


def groups(run: LoadedRun) -> list[ExampleGroup]:
    """Return all groups; one without examples says why."""
    return [*_held_out(run), *_rollouts(run)]


class HeldOutPair(NamedTuple):
    """Two evaluations, and the records of the problems to show."""

    before: HeldOut
    after: HeldOut
    shares: Mapping[str, tuple[float, float]]  # right, by problem: before and after
    samples: Mapping[str, Sample]
    note: str  # why a record is missing


def _held_out(run: LoadedRun) -> list[ExampleGroup]:
    if run.before is None or run.after is None:
        return [ExampleGroup("Held-out problems", "There are not two evaluations to compare.")]
    before, after = _shares(run.before), _shares(run.after)
    shares = {name: (before[name], after[name]) for name in before if name in after}
    gaps = {name: end - start for name, (start, end) in shares.items()}
    gained = sorted((n for n in gaps if gaps[n] > 0), key=lambda n: -gaps[n])[:EXAMPLES]
    lost = sorted((n for n in gaps if gaps[n] < 0), key=lambda n: gaps[n])[:EXAMPLES]
    never = [name for name, pair in shares.items() if pair == (0, 0)]
    samples, note = _samples(run, [*gained, *lost, *never[:EXAMPLES]])
    pair = HeldOutPair(run.before, run.after, shares, samples, note)
    return [
        ExampleGroup(
            "Gained most", _count(gaps, 1), [_changed(pair, n, (False, True)) for n in gained]
        ),
        ExampleGroup(
            "Lost most", _count(gaps, -1), [_changed(pair, n, (True, False)) for n in lost]
        ),
        ExampleGroup(
            "Never right",
            f"{len(never)} of {len(gaps)} problems had no right answer before or after.",
            [_changed(pair, n, (False, False)) for n in never[:EXAMPLES]],
        ),
    ]


def _changed(pair: HeldOutPair, name: str, wanted: tuple[bool, bool]) -> ReportProblem:
    """Return a problem with a response before and after, right or wrong as `wanted` says."""
    start, end = (100 * share for share in pair.shares[name])
    row = next(row for row in pair.after.rows if row["id"] == name)
    sample = pair.samples.get(name)
    pictures, fault = _pictures(sample.images if sample else ())
    return ReportProblem(
        id=name,
        task=row["task"],
        problem=_problem(sample.problem) if sample else "",
        gold=clipped(row["answer"]),
        pictures=pictures,
        headline=f"{start:.0f} % right before, {end:.0f} % after",
        answers=[
            _answer(pair.before, name, "before training", wanted[0]),
            _answer(pair.after, name, "after training", wanted[1]),
        ],
        note=fault or ("" if sample else pair.note),
    )


def _shares(found: HeldOut) -> dict[str, float]:
    return {name: float(np.mean(v)) for name, v in found.verdicts("sampled").items()}


def _count(gaps: Mapping[str, float], sign: int) -> str:
    number, how = sum(gap * sign > 0 for gap in gaps.values()), "more" if sign > 0 else "less"
    return f"{number} of {len(gaps)} held-out problems are answered right {how} often than before."


def _answer(found: HeldOut, name: str, when: str, correct: bool) -> ReportResponse:
    """Return the commonest sampled response to a problem among those that are `correct`.

    Where there is none such, among all of them.
    """
    rows = [row for row in found.rows if row["id"] == name and row["mode"] == "sampled"]
    chosen = [row for row in rows if row["correct"] == correct] or rows
    commonest = Counter(row["response"] for row in chosen).most_common(1)[0][0]
    row = next(row for row in chosen if row["response"] == commonest)
    return ReportResponse(when, _verdict(row["correct"]), _reason(row), clipped(row["response"]))


def _reason(row: GradedResponse) -> str:
    return (row["reason"] or row["cause"] or "")[:500]


def _verdict(correct: bool | None) -> str:
    return "no verdict" if correct is None else "right" if correct else "wrong"


def _problem(text: str) -> str:
    return clipped(text.replace(IMAGE_MARK, "").strip())


def _samples(run: LoadedRun, names: Sequence[str]) -> tuple[dict[str, Sample], str]:
    """Return the records of these ids, and why some are missing."""
    folder, split = _data_folder(run), str(run.settings.get("data.eval_split", "test"))
    try:
        samples = store.load(folder, split)
        places = {name: i for i, name in enumerate(samples.ids)}
        found = {name: samples[places[name]] for name in names if name in places}
    except DataError as error:
        return {}, f"Problem and pictures are not shown: {error}"
    return found, f"Problem and pictures are not shown: not in {folder} any more"


def _data_folder(run: LoadedRun) -> Path:
    """Return data.path, or the folder in the run with its procedural problems."""
    path = run.settings.get("data.path")
    if path is not None:
        return Path(str(path))
    seed, sizes = run.settings.get("run.seed"), ("synthetic_train", "synthetic_test")
    numbers = "-".join(str(run.settings.get(f"data.{name}")) for name in sizes)
    return run.dir / f"data-seed{seed}-{numbers}"


def _pictures(images: Sequence[bytes]) -> tuple[list[str], str]:
    """Return the pictures as data URIs, and a line about those that are not shown."""
    shown, faults = [], []
    for image in images[:MAX_PICTURES]:
        small = picture(image, FILE_SIDE)
        if small.fault:
            faults.append(f"a picture can't be shown: {small.fault}")
        else:
            shown.append(data_uri(small.data, small.kind))
    if len(images) > MAX_PICTURES:
        faults.append(f"{len(images) - MAX_PICTURES} more pictures are not shown")
    return shown, "; ".join(faults)


def _rollouts(run: LoadedRun) -> list[ExampleGroup]:
    """Return the responses of the last written step with the largest and smallest advantages."""
    files = sorted((run.dir / "rollouts").glob("step_*.parquet"))
    heading = "In training"
    if not files:
        return [ExampleGroup(heading, "No rollouts were written (run.rollouts_every).")]
    last = files[-1].name.removesuffix(".parquet").split("-")[0]
    step = int(last.removeprefix("step_"))
    rows: list[StoredRow] = []
    faults = []
    for file in files:
        if file.name.startswith((f"{last}.", f"{last}-")):
            try:
                rows += [(file, i, row) for i, row in enumerate(_rows(file))]
            except DataError as error:
                faults.append(str(error))
    best = _one_a_problem(sorted(rows, key=lambda row: -_advantage(row[2])))
    worst = _one_a_problem(sorted(rows, key=lambda row: _advantage(row[2])))
    text = " ".join(faults)
    return [
        ExampleGroup(
            f"Rewarded most in step {step}",
            f"The largest advantages: right where the group's other responses were not. {text}",
            [_trained(rows, row) for row in best if _advantage(row[2]) > 0],
        ),
        ExampleGroup(
            f"Rewarded least in step {step}",
            "The smallest advantages: wrong where the group's other responses were right.",
            [_trained(rows, row) for row in worst if _advantage(row[2]) < 0],
        ),
    ]


def _rows(file: Path) -> list[dict[str, Any]]:
    """Return a rollouts file's rows without pictures. Raises DataError if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file, columns=list(COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.name} can't be read: {error}") from error


def _advantage(row: dict[str, Any]) -> float:
    return float(row["advantage"] or 0.0)


def _one_a_problem(rows: Sequence[StoredRow]) -> list[StoredRow]:
    """Return the first EXAMPLES rows that are of different problems."""
    first: dict[str, StoredRow] = {}
    for row in rows:
        first.setdefault(row[2]["id"], row)
        if len(first) == EXAMPLES:
            break
    return list(first.values())


def _trained(rows: Sequence[StoredRow], chosen: StoredRow) -> ReportProblem:
    file, index, row = chosen
    group = [one for path, _, one in rows if path == file and one["id"] == row["id"]]
    right = sum(bool(one["correct"]) for one in group if one["valid"])
    try:
        pictures, note = _pictures(_images(file, index, row["id"]))
    except DataError as error:
        pictures, note = [], str(error)
    cut = "; cut at the length limit" if row["finish_reason"] == "length" else ""
    return ReportProblem(
        id=str(row["id"]),
        task=str(row["task"]),
        problem=_problem(str(row["problem"])),
        gold=clipped(str(row["answer"])),
        pictures=pictures,
        headline=f"advantage {_advantage(row):+.2f}, reward {row['reward']:.2f}, "
        f"{right} of {len(group)} responses right{cut}",
        answers=[
            ReportResponse(
                "in training",
                _verdict(bool(row["correct"]) if row["valid"] else None),
                _verdicts(row["verdicts"]),
                clipped(str(row["response"])),
            )
        ],
        note=note,
    )


def _verdicts(text: str) -> str:
    """Return the verdicts of all terms, from a row's JSON {term: [outcome, score, reason]}."""
    try:
        terms = json.loads(text)
        return "; ".join(
            f"{name}: {score:g}, {reason}" for name, (_, score, reason) in terms.items()
        )[:500]
    except (ValueError, TypeError, AttributeError):
        return text[:500]


def _images(file: Path, index: int, name: str) -> list[bytes]:
    """Return the pictures of the group that row `index` belongs to: its first row holds them.

    Raises DataError where they can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[bytes] = []
    try:
        batches = pq.ParquetFile(file).iter_batches(READ_AT_ONCE, columns=["id", "images"])
        rows = (row for batch in batches for row in batch.to_pylist())
        for row in islice(rows, index + 1):
            if row["id"] == name and row["images"]:
                found = row["images"]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"the pictures in {file.name} can't be read: {error}") from error
    return found
