"""`sapo-vl score BENCHMARK`: verdicts on existing responses, by the benchmark's own protocol.

    sapo-vl score mathvision --responses runs/eval/mathvision.jsonl --out scored.jsonl
    sapo-vl score mathvista --responses published.jsonl.gz --out scored.jsonl --from-extraction

Input: a JSON object per line with model, problem_id, gold (or answer), response and the optional
fields that benchmarks/rows.py reads; gzip is detected. Output: a line per response, in
order, with model, problem_id, extraction, correct (true, false or null), reason, and the verdicts
of other named rules. The last line on stdout is one JSON object. Imports neither torch nor vllm.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.errors import ConfigError, DataError, printable
from sapo_vl.evaluation.benchmarks import named
from sapo_vl.evaluation.benchmarks.accuracy import cell, tables, verdicts
from sapo_vl.evaluation.benchmarks.llm import Endpoint
from sapo_vl.evaluation.benchmarks.protocol import (
    SEED,
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    ScoredResponse,
)
from sapo_vl.evaluation.benchmarks.rows import read_response
from sapo_vl.evaluation.stats import group_verdicts, interval, repeated_samples
from sapo_vl.runs.files import atomic_write

OFFICIAL = "official"
NO_RANDOM = "no_random"
UNFINISHED = "the thinking never ends: no answer"
SHOWN_REASONS = 3  # of rows without a verdict, in the printed line


def main(
    name: str,
    responses: Path,
    out: Path,
    *,
    from_extraction: bool = False,
    rule: str = OFFICIAL,
    endpoint: Endpoint | None = None,
) -> dict[str, Any]:
    """Score a responses file, write the verdicts to `out` and return the summary.

    Args:
        name: a built-in benchmark, or path/to/file.py:NAME.
        responses: JSON lines, gzip or not.
        out: file to write; packed with gzip when its name ends in .gz.
        from_extraction: judge each row's official_extraction, extract nothing.
        rule: whose verdicts are counted, "official" or another one of the benchmark.
        endpoint: LLM that extracts, and judges, where the protocol asks one.

    Raises:
        UserError: the benchmark, a file or a row cannot be used; nothing has been written.
    """
    benchmark = named(name, "BENCHMARK")
    if endpoint is not None and not benchmark.llm:
        raise ConfigError(f"--judge: {name} is scored by rules alone, without an LLM")
    if endpoint is not None and from_extraction and not benchmark.llm_judge:
        raise ConfigError("--judge: with --from-extraction no LLM is asked; drop one of the two")
    check_out(out, responses)
    loaded = read(responses, benchmark)
    scored = score(benchmark, loaded, from_extraction=from_extraction, endpoint=endpoint)
    scored = by_rule(scored, rule)
    write(out, scored)
    source = "official_extraction" if from_extraction else extractor(benchmark, endpoint)
    result = summary(benchmark, scored) | {"extraction": source, "rule": rule}
    for line in remarks(scored):
        print(line)
    return result


def remarks(scored: Sequence[ScoredResponse]) -> list[str]:
    """Return a line each on rows without a verdict and on problems with unequal samples."""
    lines = []
    reasons = Counter(item.judgement.reason for item in scored if item.correct is None)
    if reasons:
        shown = "; ".join(f"{n} x {r[:120]}" for r, n in reasons.most_common(SHOWN_REASONS))
        lines.append(f"no verdict on {reasons.total()} of {len(scored)} responses: {shown}")
    for name, group in _configurations(scored).items():
        counts = Counter(item.response.key for item in group).values()
        if min(counts) != max(counts):
            lines.append(
                f"{name}: {min(counts)} to {max(counts)} samples per problem; accuracy is the mean "
                "over problems"
            )
    return [printable(line) for line in lines]


def extractor(benchmark: Benchmark, endpoint: Endpoint | None) -> str:
    """Name what extracts the answers, to label a result."""
    if not benchmark.llm:
        return "official rule"
    if endpoint is None:
        return "rules in place of the LLM"
    return f"LLM {endpoint.model}" + (", and the verdict too" if benchmark.llm_judge else "")


def read(path: Path, benchmark: Benchmark | None = None) -> list[Response]:
    """Return the responses of a JSON lines file, each checked for `benchmark`'s rule.

    Raises:
        DataError: the file or a row cannot be used, or two rows are the same response of a model to
            a problem; names file and line.
    """
    if not path.exists():
        raise DataError(f"--responses {path} does not exist")
    if not path.is_file():
        raise DataError(f"--responses {path} is not a regular file; save the rows in one")
    responses: dict[tuple[str, str, str, int], Response] = {}
    lines: dict[tuple[str, str, str, int], str] = {}
    for where, row in read_jsonl(path):
        response = read_response(row, where, benchmark)
        key = (response.model, response.run, response.key, response.sample)
        if key in responses:
            raise DataError(
                f"{where}: model {response.model!r}, problem {response.key!r}, sample "
                f"{response.sample} is also at {lines[key]}; give repeated responses a 'sample'"
            )
        responses[key], lines[key] = response, where
    if not responses:
        raise DataError(f"--responses {path} holds no rows")
    return list(responses.values())


def check_out(out: Path, responses: Path) -> None:
    """Raise ConfigError when `out` cannot be written, before the work is done."""
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out {out} is a folder or a device; name a file")
    if out.exists() and responses.exists() and out.samefile(responses):
        raise ConfigError(f"--out {out} is the file of the responses; name another")
    check_folder(out.parent)


def check_folder(out: Path) -> None:
    """Raise ConfigError when the folder can neither be created nor written to."""
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"--out: {existing} is not a writable folder")


def score(
    benchmark: Benchmark,
    responses: Sequence[Response],
    *,
    from_extraction: bool = False,
    endpoint: Endpoint | None = None,
) -> list[ScoredResponse]:
    """Return a verdict per response, in order.

    Random choices of an official rule are drawn in this order, per model and run from one seed.
    """
    if from_extraction:
        extractions = [ExtractedAnswer(r.official_extraction) for r in responses]
        if not benchmark.labels and all(r.official_extraction is None for r in responses):
            raise DataError("--from-extraction: no row has an official_extraction")
    else:
        finished = [response for response in responses if not response.is_thinking]
        found = iter(_extractions(benchmark, finished, endpoint))
        nothing = ExtractedAnswer(None, UNFINISHED)
        extractions = [nothing if r.is_thinking else next(found) for r in responses]
    scored = [
        ScoredResponse(response, extraction, _judge(benchmark, response, extraction))
        for response, extraction in zip(responses, extractions, strict=True)
    ]
    return endpoint.judged(scored) if benchmark.llm_judge and endpoint is not None else scored


def _extractions(
    benchmark: Benchmark, responses: Sequence[Response], endpoint: Endpoint | None
) -> list[ExtractedAnswer]:
    if benchmark.llm and endpoint is not None:
        return endpoint.extract(benchmark, responses)
    draws: dict[tuple[str, str], random.Random] = defaultdict(lambda: random.Random(SEED))
    return [benchmark.extract(r, draws[r.model, r.run]) for r in responses]


def _judge(benchmark: Benchmark, response: Response, extraction: ExtractedAnswer) -> Judgement:
    has_text = response.content is not None or response.official_extraction is not None
    if benchmark.labels and not has_text:
        reason = "the published verdict: the row has no response"
        return Judgement(response.official_correct, reason)
    if response.answer is None:
        return Judgement(None, "the row has no answer to compare with")
    if response.unscorable or extraction.failure:
        return Judgement(None, response.unscorable or extraction.failure)
    if extraction.note == UNFINISHED:
        return Judgement(False, UNFINISHED)
    value = extraction.value
    if isinstance(value, int | float):  # published extractions may be numbers
        value = str(value)
    judgement = benchmark.judge(response, value)
    if extraction.is_random:
        judgement = replace(
            judgement,
            reason=f"{extraction.note}: {judgement.reason}",
            rules=judgement.rules | {NO_RANDOM: False},
        )
    return judgement


def by_rule(scored: Sequence[ScoredResponse], rule: str) -> list[ScoredResponse]:
    """Return the responses with another rule's verdicts. Raises ConfigError for an unknown one."""
    if rule == OFFICIAL:
        return list(scored)
    known = {name for item in scored for name in item.judgement.rules}
    if rule not in known:
        raise ConfigError(f"--rule {rule!r} is unknown here; allowed: {[OFFICIAL, *sorted(known)]}")
    return [
        replace(item, judgement=replace(item.judgement, correct=_verdict(item, rule)))
        for item in scored
    ]


def _verdict(item: ScoredResponse, rule: str) -> bool | None:
    """Return a rule's verdict, the official one where the rule gave none."""
    return item.judgement.rules.get(rule, item.correct)


def scored_record(item: ScoredResponse) -> dict[str, Any]:
    """Return the line that is written for a response."""
    response = item.response
    line: dict[str, Any] = {
        "model": response.model,
        "problem_id": response.problem_id,
        "extraction": _final_extraction(item),
        "correct": item.correct,
        "reason": item.judgement.reason or item.extraction.note,
    }
    optional = {
        "variant": response.variant,
        "run": response.run,
        "sample": response.sample,
        "note": item.extraction.note,
        "random": item.extraction.is_random,
        "rules": item.judgement.rules,
        "meta": response.meta,
    }
    return _jsonable(line | {key: value for key, value in optional.items() if value})


def _final_extraction(item: ScoredResponse) -> Any:
    return item.judgement.reading if item.extraction.is_response else item.extraction.value


def _jsonable(value: Any) -> Any:
    """Turn NaN and infinities, which JSON lacks, into text."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path, scored: Iterable[ScoredResponse]) -> None:
    """Write a line per response, atomically. A lone surrogate is written as its escape."""
    opener = gzip.open if path.suffix == ".gz" else open
    with (
        atomic_write(path) as partial,
        opener(partial, "wt", encoding="utf-8", errors="backslashreplace") as lines,
    ):
        for item in scored:
            lines.write(json.dumps(scored_record(item), ensure_ascii=False) + "\n")


def summary(benchmark: Benchmark, scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return counts, accuracy per model, and the benchmark's aggregates per model (and run)."""
    published = agreement(scored)
    return {
        "benchmark": benchmark.name,
        "rows": len(scored),
        "no_verdict": sum(item.correct is None for item in scored),
        "accuracy": {
            model: cell(verdicts(group))["accuracy"] for model, group in _by_model(scored).items()
        },
        "aggregates": {
            name: aggregate(benchmark, group) for name, group in _configurations(scored).items()
        },
    } | ({"published": published} if published else {})


def agreement(scored: Sequence[ScoredResponse]) -> dict[str, int]:
    """Count agreements with the published verdicts and extractions; empty where there are none.

    Random choices of an official rule and responses without a verdict are counted apart.
    """
    labels, extractions = [], []
    random_choices = no_verdict = 0
    for item in scored:
        label, extraction = item.response.official_correct, item.response.official_extraction
        if label is None and extraction is None:
            continue
        random_choices += item.extraction.is_random
        no_verdict += item.correct is None
        if item.extraction.is_random or item.correct is None:
            continue
        if label is not None:
            labels.append(item.correct == label)
        if extraction is not None:
            extractions.append(str(_final_extraction(item)) == str(extraction))
    if not (labels or extractions or random_choices or no_verdict):
        return {}
    return {
        "labels": len(labels),
        "labels_met": sum(labels),
        "extractions": len(extractions),
        "extractions_met": sum(extractions),
        "random_choices": random_choices,
        "no_verdict": no_verdict,
    }


def _configurations(scored: Sequence[ScoredResponse]) -> dict[str, list[ScoredResponse]]:
    """Group the responses by model, or by run where a model has several."""
    by_model = _by_model(scored)
    runs = {model: {item.response.run for item in group} for model, group in by_model.items()}

    def name(response: Response) -> str:
        if len(runs[response.model]) == 1:
            return response.model
        is_shared = sum(response.run in names for names in runs.values()) > 1
        return f"{response.model}: {response.run}" if is_shared else response.run

    return _group(scored, name)


def _by_model(scored: Sequence[ScoredResponse]) -> dict[str, list[ScoredResponse]]:
    return _group(scored, lambda response: response.model)


def _group(
    scored: Sequence[ScoredResponse], name: Callable[[Response], str]
) -> dict[str, list[ScoredResponse]]:
    groups: dict[str, list[ScoredResponse]] = defaultdict(list)
    for item in scored:
        groups[name(item.response)].append(item)
    return dict(groups)


def by_problem(
    scored: Sequence[ScoredResponse],
) -> tuple[dict[str, list[bool]], dict[str, str]]:
    """Return the verdicts by problem, and each problem's family."""
    return (
        group_verdicts((item.response.key, item.correct) for item in scored),
        {item.response.key: item.response.family for item in scored},
    )


def aggregate(benchmark: Benchmark, scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return one model's figures: average, tables, own metrics, other rules, repeated samples."""
    by_name, families = by_problem(scored)
    means = np.array([np.mean(v) for v in by_name.values()])
    ci95 = list(interval(means, list(by_name), families))
    average: dict[str, Any] = dict(cell(verdicts(scored)))
    result: dict[str, Any] = {"average": average | {"ci95": ci95}}
    result |= tables(scored, benchmark.tables)
    if benchmark.aggregate is not None:
        result |= benchmark.aggregate(scored)
    samples = repeated_samples([(item.response.key, item.correct) for item in scored], families)
    if samples:
        result["samples"] = samples
    counts = Counter(item.response.key for item in scored).values()
    if len(set(counts)) > 1:
        result["unequal_samples"] = {"fewest": min(counts), "most": max(counts)}
    random_choices = sum(item.extraction.is_random for item in scored)
    if random_choices:
        result["random_choices"] = random_choices
    rules = sorted({name for item in scored for name in item.judgement.rules})
    if rules:
        result["rules"] = {name: _rule_figures(scored, name) for name in rules}
    return result


def _rule_figures(scored: Sequence[ScoredResponse], rule: str) -> dict[str, Any]:
    other = by_rule(scored, rule)
    changed = sum(a.correct != b.correct for a, b in zip(other, scored, strict=True))
    return dict(cell(verdicts(other))) | {"rows_changed": changed}
