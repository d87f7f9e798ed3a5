"""`sapo-vl verify`: run the verifiers over a file of (gold, response) pairs.

    sapo-vl verify --in pairs.jsonl.gz --out verdicts.jsonl --workers 2

Rows are JSON objects: id, gold, mode, and response_or_answer or response; optional choices,
precision, unit, rel_tol, question, and response_repeat ([prefix, unit, n, suffix]) for huge ones.
Modes: answer and answer_tol (a bare answer), response (the answer is found first), mcq, mcq_multi,
text, text_judge, judge, count, bbox, point. Each row gives one verdict, in order; the last thing on
stdout is one JSON line of totals. A gold that cannot be used gives no verdict for its row; a row
that is no row ends the command with its line number.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from sapo_vl.errors import DataError, SetupError, nearest
from sapo_vl.rewards.parsing.extract import Extraction
from sapo_vl.rewards.pool.client import Referee
from sapo_vl.rewards.verifiers import boxes, choice, count, maths, point, text
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig, candidate
from sapo_vl.rewards.verifiers.maths import Pending, settle
from sapo_vl.runs.progress import Progress
from sapo_vl.schema import Outcome, Sample, Verdict

CHUNK = 2048  # rows in memory at a time
Look = Callable[[Sample, str], Verdict | Pending]


def _bare(sample: Sample, response: str) -> Verdict | Pending:
    """The text is the answer; nothing is searched in it."""
    answer = response.strip()
    return maths.compare(sample, Extraction(answer or None, "a bare answer"))


MODES: dict[str, Look] = {
    "answer": _bare,
    "answer_tol": _bare,
    "response": maths.first_look,
    "mcq": choice.score,
    "mcq_multi": choice.score,
    "text": text.score,
    "text_judge": _bare,
    "judge": maths.first_look,
    "judge_reply": maths.first_look,
    "count": count.score,
    "bbox": boxes.score,
    "point": point.score,
}
JUDGED_MODES = ("answer", "response", "text", "text_judge", "judge")


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, ready to be verified."""

    sample: Sample
    response: str
    mode: str


def run(arguments: argparse.Namespace) -> None:
    """Verify all rows and print the totals. Raises DataError for a row that is none."""
    if (arguments.judge is None) != (arguments.judge_model is None):
        raise DataError("--judge and --judge-model go together")
    if arguments.deadline <= 0 or (arguments.workers is not None and arguments.workers < 1):
        raise DataError("--deadline and --workers must be positive")
    if not arguments.input.is_file():
        raise DataError(f"--in {arguments.input}: no such file")
    judge = None
    if arguments.judge:
        judge = Judge(JudgeConfig(arguments.judge, arguments.judge_model))
        judge.check()
    total = sum(1 for _ in rows(arguments.input))  # every row is checked before the first verdict
    referee = Referee(arguments.workers, arguments.deadline)
    totals = Totals()
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with (
            _open(arguments.out, "wt") as out,
            Progress(None, total, "verify", Console(stderr=True)) as progress,
        ):
            for chunk in _chunks(rows(arguments.input)):
                for row, verdict in zip(chunk, verify(chunk, referee, judge), strict=True):
                    out.write(json.dumps(_record(row, verdict), ensure_ascii=False) + "\n")
                    totals.add(verdict)
                progress.update(totals.rows, {"rows/s": totals.per_second()})
    except OSError as error:
        raise SetupError(f"--out {arguments.out}: {error}") from error
    finally:
        referee.close()
    print(json.dumps(totals.summary(referee, judge)), flush=True)


def rows(path: Path) -> Iterator[Row]:
    """Read the pairs. Raises DataError with file and line for anything malformed."""
    with _open(path, "rt") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_row(line, f"{path}:{number}")


def parse_row(line: str, place: str) -> Row:
    """Return one row of the input. Raises DataError that starts with `place`."""
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"{place}: not a JSON object")
    mode = raw.get("mode")
    if mode not in MODES:
        raise DataError(
            f"{place}: mode {mode!r} is unknown; allowed: {', '.join(MODES)}"
            f"{nearest(str(mode), MODES)}"
        )
    for key in ("id", "gold"):
        if not isinstance(raw.get(key), str):
            raise DataError(f"{place}: {key!r} must be a string, not {raw.get(key)!r}")
    response = _response(raw, place)
    choices = raw.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{place}: 'choices' must be a list of strings")
    sample = Sample(
        id=raw["id"],
        dataset="pairs",
        task=mode,
        problem=str(raw.get("question", "")),
        images=(),
        answer=raw["gold"],
        choices=tuple(choices),
        precision=_number(raw, "precision", place, int),
        unit=raw.get("unit"),
        metadata={"rel_tol": _number(raw, "rel_tol", place, float)},
    )
    return Row(sample, response, mode)


def verify(chunk: list[Row], referee: Referee, judge: Judge | None) -> list[Verdict]:
    """Return the verdicts of a chunk: rules, then workers, then the judge where there is one."""
    looked = [_looked(row) for row in chunk]
    answers = iter(referee.decide([v.question for v in looked if isinstance(v, Pending)]))
    verdicts = [settle(v, next(answers)) if isinstance(v, Pending) else v for v in looked]
    if judge is not None:
        asked = [
            i
            for i, (row, verdict) in enumerate(zip(chunk, verdicts, strict=True))
            if row.mode in JUDGED_MODES and verdict.outcome is not Outcome.CORRECT
        ]
        items = [(chunk[i].sample, candidate(chunk[i].response)) for i in asked]
        for i, verdict in zip(asked, judge.verdicts(items), strict=True):
            verdicts[i] = verdict
    return verdicts


def _looked(row: Row) -> Verdict | Pending:
    start = time.perf_counter()
    try:
        found = MODES[row.mode](row.sample, row.response)
    except DataError as error:
        return Verdict(Outcome.NO_VERDICT, 0.0, f"bad gold: {error}")
    if isinstance(found, Pending):
        return found
    return replace(found, seconds=time.perf_counter() - start)


def _record(row: Row, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": row.sample.id,
        "outcome": verdict.outcome.value,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "seconds": round(verdict.seconds, 6),
        "tier": verdict.tier,
    }


class Totals:
    """What the last line says."""

    def __init__(self) -> None:
        self.rows = 0
        self.outcomes: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)  # by tier
        self.started = time.monotonic()

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        self.rows += 1
        self.outcomes[verdict.outcome.value] += 1
        self.seconds[verdict.tier].append(verdict.seconds)

    def per_second(self) -> float:
        """Return rows per second since the start."""
        return self.rows / max(1e-9, time.monotonic() - self.started)

    def summary(self, referee: Referee, judge: Judge | None) -> dict[str, Any]:
        """Return the totals as JSON types."""
        tiers = {
            tier: {
                "share": round(len(seconds) / self.rows, 4),
                "p50_ms": _percentile(seconds, 0.50),
                "p99_ms": _percentile(seconds, 0.99),
            }
            for tier, seconds in sorted(self.seconds.items())
        }
        return {
            "rows": self.rows,
            "per_second": round(self.per_second(), 1),
            **{outcome.value: self.outcomes[outcome.value] for outcome in Outcome},
            "tiers": tiers,
            "kills": referee.pool.kills,
            "judge_calls": judge.calls if judge else 0,
        }


def _percentile(seconds: list[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def _response(raw: dict[str, Any], place: str) -> str:
    if (repeat := raw.get("response_repeat")) is not None:
        if not isinstance(repeat, list) or [type(part) for part in repeat] != [str, str, int, str]:
            raise DataError(f"{place}: 'response_repeat' must be [prefix, unit, n, suffix]")
        prefix, unit, n, suffix = repeat
        return prefix + unit * n + suffix
    for key in ("response_or_answer", "response"):
        if isinstance(raw.get(key), str):
            return str(raw[key])
    raise DataError(f"{place}: 'response_or_answer' or 'response' must be a string")


def _number(raw: dict[str, Any], key: str, place: str, kind: type) -> Any:
    value = raw.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise DataError(f"{place}: {key!r} must be a number of at least 0, not {value!r}")
    return kind(value)


def _open(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8")


def _chunks(source: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in source:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
