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
import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.benchmarks import named
from sapo_vl.evaluation.benchmarks.llm import Endpoint
from sapo_vl.evaluation.benchmarks.protocol import (
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
from sapo_vl.evaluation.benchmarks.sources import read_jsonl
from sapo_vl.evaluation.stats import interval, repeated, shares

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
    if endpoint is not None and not benchmark.llm:
        raise ConfigError(f"--judge: {name} is scored by rules alone, no LLM is asked")
    rows = read(responses)
    check_out(out, responses)
    scored = score(benchmark, rows, from_extraction=from_extraction, endpoint=endpoint)
    scored = by_rule(scored, rule)
    write(out, scored)
    source = "official_extraction" if from_extraction else extractor(benchmark, endpoint)
    return summary(benchmark, scored) | {"extraction": source, "rule": rule}


def extractor(benchmark: Benchmark, endpoint: Endpoint | None) -> str:
    """Say who finds the answer, for the label of a result."""
    if not benchmark.llm:
        return "official rule"
    if endpoint is None:
        return "rules in place of the LLM"
    return f"LLM {endpoint.model}" + (", and the verdict too" if benchmark.llm_judge else "")


def read(path: Path) -> list[Row]:
    """Return the rows of a JSON lines file, gzip or not. Raises DataError naming file and line."""
    if not path.exists():
        raise DataError(f"--responses {path} does not exist")
    rows = [read_row(record, where) for where, record in read_jsonl(path)]
    if not rows:
        raise DataError(f"--responses {path} holds no rows")
    return rows


def check_out(out: Path, responses: Path) -> None:
    """Raise ConfigError before the work when its result could not be written."""
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file")
    if out.resolve() == responses.resolve():
        raise ConfigError(f"--out {out} is the file of the responses; name another")
    check_folder(out.parent)


def check_folder(out: Path) -> None:
    """Raise ConfigError when the folder can't be made, or written in where it is there."""
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"--out: {there} is no folder that can be written")


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
    scored = [
        Scored(row, extraction, _judge(benchmark, row, extraction))
        for row, extraction in zip(rows, found, strict=True)
    ]
    return endpoint.judged(scored) if benchmark.llm_judge and endpoint is not None else scored


def _judge(benchmark: Benchmark, row: Row, extraction: Extraction) -> Judgement:
    if benchmark.labels and row.response is None and row.official_extraction is None:
        return Judgement(row.label, "the row's published verdict (it has no response)")
    if row.gold is None:
        return Judgement(None, "the row has no gold answer")
    value = extraction.value
    if isinstance(value, int | float):  # a published one may be a number
        value = str(value)
    judgement = benchmark.judge(row, value)
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
    return _finite(line | {key: value for key, value in optional.items() if value})


def _finite(value: Any) -> Any:
    """Return the value with nan and the infinities as text: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path, scored: Iterable[Scored]) -> None:
    """Write the lines to a temporary file and rename it, so that nothing is half-written.

    Half a surrogate pair, which UTF-8 can't hold, is written as JSON's escape of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(_partial(path), "wt", encoding="utf-8", errors="backslashreplace") as lines:
        for item in scored:
            lines.write(json.dumps(record(item), ensure_ascii=False) + "\n")
    os.replace(_partial(path), path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def summary(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return rows, accuracy per model and the benchmark's aggregates per model (and run)."""
    published = agreement(scored)
    return {
        "benchmark": benchmark.name,
        "rows": len(scored),
        "no_verdict": sum(item.correct is None for item in scored),
        "accuracy": {
            model: cell([item.correct for item in group])["accuracy"]
            for model, group in _by(scored, _model).items()
        },
        "aggregates": {
            name: aggregate(benchmark, group) for name, group in _configurations(scored).items()
        },
    } | ({"published": published} if published else {})


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


def _configurations(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Return the rows by model, or by run where a model has several."""
    runs = {model: {i.row.run for i in group} for model, group in _by(scored, _model).items()}

    def name(row: Row) -> str:
        if len(runs[row.model]) == 1:
            return row.model
        shared = sum(row.run in names for names in runs.values()) > 1
        return f"{row.model}: {row.run}" if shared else row.run

    return _by(scored, name)


def _model(row: Row) -> str:
    return row.model


def _by(scored: Sequence[Scored], name: Callable[[Row], str]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        groups[name(item.row)].append(item)
    return dict(groups)


def by_problem(scored: Sequence[Scored]) -> tuple[dict[str, list[bool]], dict[str, str]]:
    """Return the verdicts by problem, and each problem's family."""
    return (
        shares((item.row.key, item.correct) for item in scored),
        {item.row.key: item.row.family for item in scored},
    )


def aggregate(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return one model's figures: average, tables, own metrics, other rules, repeated samples."""
    groups, families = by_problem(scored)
    means = np.array([np.mean(verdicts) for verdicts in groups.values()])
    ci95 = list(interval(means, list(groups), families))
    result: dict[str, Any] = {"average": cell([i.correct for i in scored]) | {"ci95": ci95}}
    result |= tables(scored, benchmark.tables)
    if benchmark.aggregate is not None:
        result |= benchmark.aggregate(scored)
    samples = repeated([(i.row.key, i.correct) for i in scored], families)
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
