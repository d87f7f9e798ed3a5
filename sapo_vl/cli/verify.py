"""`sapo-vl verify`: run verifiers over a file of (gold answer, response) rows.

    sapo-vl verify --in pairs.jsonl.gz --out verdicts.jsonl --workers 2

verify_rows.py has the fields of a row. Each row gives one verdict, in order; the last line on
stdout is a JSON object of totals. A gold answer that can't be used is `no_verdict` for its row. A
malformed row or an unknown verifier ends the command with file and line, before anything is
written. The output takes its name when it is complete, and is never the input. With `--judge` the
default verifier is `answer_or_judge` in place of `answer`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from sapo_vl.cli.verify_rows import VerifyRow, open_output, read_rows
from sapo_vl.errors import DataError, SetupError
from sapo_vl.rewards import JUDGED
from sapo_vl.rewards.parsing.extract import MAX_ANSWER_CHARS, Extraction
from sapo_vl.rewards.parsing.statements import stated_value
from sapo_vl.rewards.pool.client import PoolClient
from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.rewards.verifiers import maths
from sapo_vl.rewards.verifiers.endpoint import ChatEndpoint
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig
from sapo_vl.runs.files import atomic_write
from sapo_vl.runs.progress import ProgressDisplay
from sapo_vl.schema import Outcome, Sample, Verdict

CHUNK_ROWS, CHUNK_CHARS = 2048, 1 << 25  # in memory at a time
MAX_DEADLINE = 3600.0  # seconds


def run(arguments: argparse.Namespace) -> None:
    """Verify all rows and print the totals. Raises DataError for a malformed row."""
    if (arguments.judge is None) != (arguments.judge_model is None):
        raise DataError("--judge and --judge-model go together")
    if not 0 < arguments.deadline <= MAX_DEADLINE:
        raise DataError(f"--deadline must be above 0 and at most {MAX_DEADLINE:g} s")
    if arguments.workers is not None and arguments.workers < 1:
        raise DataError("--workers must be positive")
    if not arguments.input.is_file():
        raise DataError(f"--in {arguments.input}: no such file")
    if arguments.out.exists() and arguments.out.samefile(arguments.input):
        raise DataError(f"--out {arguments.out}: is the file of --in, which it would replace")
    judge = None
    if arguments.judge:
        ChatEndpoint(arguments.judge, arguments.judge_model).check_url("--judge")
        judge = Judge(JudgeConfig(arguments.judge, arguments.judge_model))
        judge.check()
    verifier = "answer_or_judge" if judge else "answer"
    rubric = Rubric([], PoolClient(arguments.workers, arguments.deadline), judge)
    try:
        count = _check_rows(read_rows(arguments.input, verifier), rubric)
        totals = _write_verdicts(arguments.out, read_rows(arguments.input, verifier), count, rubric)
    finally:
        rubric.close()
    print(json.dumps(totals.summary(rubric)), flush=True)


def _check_rows(rows: Iterator[VerifyRow], rubric: Rubric) -> int:
    """Check every row and verifier before the first verdict; return the number of rows."""
    checked: set[str] = set()
    count = 0
    for row in rows:
        count += 1
        if row.verifier not in checked:
            if row.verifier in JUDGED and rubric.judge is None:
                raise DataError(f"{row.location}: verifier {row.verifier!r} needs --judge")
            rubric.check_verifier(row.verifier, f"{row.location}: verifier")
            checked.add(row.verifier)
    return count


def _write_verdicts(path: Path, rows: Iterator[VerifyRow], count: int, rubric: Rubric) -> Totals:
    totals = Totals()
    try:
        with (
            _complete_or_absent(path) as target,
            open_output(target, path.name) as out,
            ProgressDisplay(None, count, "verify", Console(stderr=True)) as progress,
        ):
            for chunk in _chunks(rows):
                for row, verdict in zip(chunk, verify(chunk, rubric), strict=True):
                    out.write(json.dumps(_record(row, verdict), ensure_ascii=False) + "\n")
                    totals.add(verdict)
                progress.update(totals.rows, {"rows/s": totals.per_second()})
    except OSError as error:
        raise SetupError(f"--out {path}: {error}") from error
    return totals


def _complete_or_absent(path: Path) -> AbstractContextManager[Path]:
    """Return where to write: a temporary file that is renamed at the end, or a device itself."""
    return nullcontext(path) if path.exists() and not path.is_file() else atomic_write(path)


def _chunks(rows: Iterator[VerifyRow]) -> Iterator[list[VerifyRow]]:
    chunk: list[VerifyRow] = []
    chars = 0
    for row in rows:
        chunk.append(row)
        chars += len(row.response) + len(row.sample.answer)
        if len(chunk) == CHUNK_ROWS or chars > CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


def verify(chunk: list[VerifyRow], rubric: Rubric) -> list[Verdict]:
    """Return the verdicts of a chunk, in order; rows of one verifier are graded in one batch."""
    batches: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for i, row in enumerate(chunk):
        batches[row.verifier, row.bare].append(i)
    verdicts: dict[int, Verdict] = {}
    for (verifier, bare), indices in batches.items():
        pairs = [(chunk[i].sample, chunk[i].response) for i in indices]
        if not bare:
            batch = rubric.verdicts(verifier, pairs)
        else:
            batch = rubric.decide(_compare_bare, pairs)
            if verifier == "answer_or_judge":
                batch = rubric.judge_unless_correct(batch, pairs)
        verdicts.update(zip(indices, batch, strict=True))
    return [verdicts[i] for i in range(len(chunk))]


def _compare_bare(sample: Sample, response: str) -> Verdict | NeedsWorker:
    """Compare a response that is the answer itself."""
    answer = stated_value(response.strip()) if len(response) <= MAX_ANSWER_CHARS else response
    return maths.compare(sample, Extraction(answer.strip() or None, "a bare answer"))


def _record(row: VerifyRow, verdict: Verdict) -> dict[str, Any]:
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
    """Counts and timings over all rows."""

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

    def summary(self, rubric: Rubric) -> dict[str, Any]:
        """Return the totals as JSON types."""
        tiers = {
            tier: {
                "share": round(len(seconds) / self.rows, 4),
                "p50_ms": _percentile_ms(seconds, 0.50),
                "p99_ms": _percentile_ms(seconds, 0.99),
            }
            for tier, seconds in sorted(self.seconds.items())
        }
        return {
            "rows": self.rows,
            "per_second": round(self.per_second(), 1),
            **{outcome.value: self.outcomes[outcome.value] for outcome in Outcome},
            "tiers": tiers,
            "kills": rubric.pool_client.pool.kills,
            "judge_calls": rubric.judge.calls if rubric.judge else 0,
        }


def _percentile_ms(seconds: list[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
