"""`sapo-vl score BENCHMARK`: verdicts on existing responses, by the benchmark's own protocol.

    sapo-vl score mathvision --responses runs/eval/mathvision.jsonl --out scored.jsonl
    sapo-vl score mathvista --responses published.jsonl.gz --out scored.jsonl --from-extraction

Input: a JSON object per line with model, problem_id, gold, response (others: base.Row); gzip by the
name's ending. Output: a line per row, in order, with model, problem_id, extraction, correct
(true, false, null), reason, and what other named rules say. The last line on stdout is one JSON
object. Neither torch nor vllm is imported.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from sapo_vl.benchmarks import named
from sapo_vl.benchmarks.base import (
    SEED,
    Benchmark,
    Extraction,
    Judgement,
    Row,
    Scored,
    cell,
    read_row,
    tables,
)
from sapo_vl.benchmarks.llm import Endpoint
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.passk import repeated

OFFICIAL = "official"
NO_RANDOM = "no_random"


def main(
    name: str,
    responses: Path,
    out: Path,
    *,
    from_extraction: bool = False,
    rule: str = OFFICIAL,
    endpoint: Endpoint | None = None,
) -> dict[str, Any]:
    """Score a file, write `out` and return the summary, which the caller prints."""
    benchmark = named(name)
    rows = read(responses)
    scored = score(benchmark, rows, from_extraction=from_extraction, endpoint=endpoint)
    scored = by_rule(scored, rule)
    write(out, scored)
    source = "official_extraction" if from_extraction else extractor(benchmark, endpoint)
    return summary(benchmark, scored) | {"extraction": source, "rule": rule}


def extractor(benchmark: Benchmark, endpoint: Endpoint | None) -> str:
    """Say who finds the answer, for the label of a result."""
    if not benchmark.llm:
        return "official rule"
    return f"LLM {endpoint.model}" if endpoint else "rules in place of the LLM"


def read(path: Path) -> list[Row]:
    """Return the rows of a .jsonl or .jsonl.gz file. Raises DataError naming file and line."""
    if not path.is_file():
        raise DataError(f"--responses {path} does not exist")
    rows = []
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(read_row(_object(line, f"{path}:{number}"), f"{path}:{number}"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"--responses {path} can't be read: {error}") from error
    if not rows:
        raise DataError(f"--responses {path} holds no rows")
    return rows


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a row is a JSON object, not a {type(record).__name__}")
    return record


def score(
    benchmark: Benchmark,
    rows: Sequence[Row],
    *,
    from_extraction: bool = False,
    endpoint: Endpoint | None = None,
) -> list[Scored]:
    """Return a verdict per row, in order. The official random choices follow the rows' order."""
    if from_extraction:
        found: list[Extraction] = [Extraction(row.official_extraction) for row in rows]
        if not benchmark.labels and all(row.official_extraction is None for row in rows):
            raise DataError("--from-extraction: no row has an official_extraction")
    elif benchmark.llm and endpoint is not None:
        found = endpoint.extract(benchmark, rows)
    else:
        draws: dict[tuple[str, str], random.Random] = defaultdict(lambda: random.Random(SEED))
        found = [benchmark.extract(row, draws[row.model, row.run]) for row in rows]
    return [
        Scored(row, extraction, _judge(benchmark, row, extraction))
        for row, extraction in zip(rows, found, strict=True)
    ]


def _judge(benchmark: Benchmark, row: Row, extraction: Extraction) -> Judgement:
    if benchmark.labels and row.response is None and row.official_extraction is None:
        return Judgement(row.label, "the row's published verdict (it has no response)")
    judgement = benchmark.judge(row, extraction.value)
    if extraction.is_random:
        judgement = replace(
            judgement,
            reason=f"{extraction.note}: {judgement.reason}",
            rules=judgement.rules | {NO_RANDOM: False},
        )
    return judgement


def by_rule(scored: Sequence[Scored], rule: str) -> list[Scored]:
    """Return the rows with another named rule's verdicts. Raises ConfigError for an unknown one."""
    if rule == OFFICIAL:
        return list(scored)
    known = {name for item in scored for name in item.judgement.rules}
    if rule not in known:
        raise ConfigError(f"--rule {rule!r} is unknown here; allowed: {[OFFICIAL, *sorted(known)]}")
    return [
        replace(
            item,
            judgement=replace(item.judgement, correct=item.judgement.rules.get(rule, item.correct)),
        )
        for item in scored
    ]


def record(item: Scored) -> dict[str, Any]:
    """Return the line that is written for a row."""
    row = item.row
    line: dict[str, Any] = {
        "model": row.model,
        "problem_id": row.problem_id,
        "extraction": _shown(item),
        "correct": item.correct,
        "reason": item.judgement.reason or item.extraction.note,
    }
    optional = {
        "variant": row.variant,
        "run": row.run,
        "sample": row.sample,
        "note": item.extraction.note,
        "random": item.extraction.is_random,
        "rules": item.judgement.rules,
        "meta": row.meta,
    }
    return line | {key: value for key, value in optional.items() if value}


def write(path: Path, scored: Iterable[Scored]) -> None:
    """Write the lines to a temporary file and rename it, so that nothing is half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with (
        gzip.open(partial, "wt", encoding="utf-8")
        if path.suffix == ".gz"
        else partial.open("w", encoding="utf-8")
    ) as lines:
        for item in scored:
            lines.write(json.dumps(record(item), ensure_ascii=False) + "\n")
    os.replace(partial, path)


def summary(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return rows, accuracy per model and the benchmark's aggregates per model (and run)."""
    models = {item.row.model for item in scored}
    several = {m: {i.row.run for i in scored if i.row.model == m} for m in models}
    published = agreement(scored)
    return {
        "benchmark": benchmark.name,
        "rows": len(scored),
        "no_verdict": sum(item.correct is None for item in scored),
        "accuracy": {m: aggregates["accuracy"] for m, aggregates in _cells(scored, by="model")},
        "aggregates": {
            name: aggregate(benchmark, group)
            for name, group in _groups(scored, several)
        },
    } | ({"published": published} if published else {})  # fmt: skip


def agreement(scored: Sequence[Scored]) -> dict[str, int]:
    """Count where the rows' own published verdicts and extractions are met; empty without any.

    Random choices of an official rule and rows without a verdict here are counted apart.
    """
    rows = [i for i in scored if i.row.label is not None or i.row.official_extraction is not None]
    fixed = [i for i in rows if not i.extraction.is_random and i.correct is not None]
    if not rows:
        return {}
    labels = [i for i in fixed if i.row.label is not None]
    found = [i for i in fixed if i.row.official_extraction is not None]
    return {
        "labels": len(labels),
        "labels_met": sum(i.correct == i.row.label for i in labels),
        "extractions": len(found),
        "extractions_met": sum(str(_shown(i)) == str(i.row.official_extraction) for i in found),
        "random_choices": sum(i.extraction.is_random for i in rows),
        "no_verdict": sum(i.correct is None for i in rows),
    }


def _shown(item: Scored) -> Any:
    return item.judgement.reading if item.extraction.is_response else item.extraction.value


def _cells(scored: Sequence[Scored], by: str) -> Iterator[tuple[str, dict[str, Any]]]:
    groups: dict[str, list[bool | None]] = defaultdict(list)
    for item in scored:
        groups[getattr(item.row, by)].append(item.correct)
    for name, verdicts in groups.items():
        yield name, cell(verdicts)


def _groups(
    scored: Sequence[Scored], several: dict[str, set[str]]
) -> Iterator[tuple[str, list[Scored]]]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        split = len(several[item.row.model]) > 1
        groups[item.row.run if split else item.row.model].append(item)
    yield from groups.items()


def aggregate(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return one model's figures: average, tables, own metrics, other rules, repeated samples."""
    result: dict[str, Any] = {"average": cell([item.correct for item in scored])}
    result |= tables(scored, benchmark.tables)
    if benchmark.aggregate is not None:
        result |= benchmark.aggregate(scored)
    samples = repeated([(f"{i.row.problem_id}#{i.row.variant}", i.correct) for i in scored])
    if samples:
        result["samples"] = samples
    touched = sum(item.extraction.is_random for item in scored)
    if touched:
        result["random_choices"] = touched
    rules = sorted({name for item in scored for name in item.judgement.rules})
    if rules:
        result["rules"] = {
            name: cell([i.judgement.rules.get(name, i.correct) for i in scored])
            | {"rows_changed": sum(i.judgement.rules.get(name, i.correct) != i.correct
                                   for i in scored)}
            for name in rules
        }  # fmt: skip
    return result
