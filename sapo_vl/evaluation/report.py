"""A benchmark evaluation as Markdown and as one self-contained HTML page with example problems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.tables import read_jsonl
from sapo_vl.evaluation.benchmarks.protocol import problem_key
from sapo_vl.runs.files import write_json, write_text
from sapo_vl.runs.pages import PageTable, data_uri, markdown_text, write_page
from sapo_vl.schema import IMAGE_MARK, Sample

__all__ = ["gains", "overview", "percent", "write_html", "write_json", "write_markdown"]

EXAMPLES = 4  # correctly answered problems of each benchmark, and as many wrongly answered
MAX_SIDE = 480  # pixels of an example image's longer side
MAX_TEXT = 4000  # characters of a prompt or response shown: its beginning and its end
MAX_ROWS = 40  # larger tables are in summary.json only


@dataclass(frozen=True)
class ReportExample:
    """One response on the page; all texts are plain and clipped."""

    key: str  # of the problem
    correct: bool | None  # None: no verdict
    images: list[str]  # data URIs
    prompt: str
    response: str
    extraction: str
    answer: str
    reason: str  # of the verdict


def overview(result: dict[str, Any]) -> PageTable:
    """Return the table of all benchmarks."""
    columns = [
        "benchmark", "accuracy", "95 % interval", "problems", "responses", "cut", "not asked",
        "no verdict", "random", "answer found by",
    ]  # fmt: skip
    rows = []
    for summary in result["benchmarks"].values():
        low, high = summary["ci95"]
        rows.append(
            [
                summary["title"],
                percent(summary["accuracy"]),
                f"{100 * low:.1f} to {100 * high:.1f}",
                str(summary["problems"]),
                str(summary["responses"]),
                str(summary["cut"]),
                str(summary["not_asked"]),
                str(summary["no_verdict"]),
                str(summary["aggregates"].get("random_choices", 0)),
                summary["extraction"],
            ]
        )
    return PageTable(columns, rows)


def gains(result: dict[str, Any]) -> PageTable:
    """Return the table of vision gains; without rows when no controls were run."""
    columns = ["benchmark", "control", "with image", "with control", "gain", "95 % interval", "p"]
    rows = []
    for summary in result["benchmarks"].values():
        for name, gain in summary.get("vision_gain", {}).items():
            low, high = gain["ci95"]
            rows.append(
                [
                    summary["title"],
                    name,
                    percent(gain["with_image"]),
                    percent(gain["with_control"]),
                    f"{100 * gain['gain']:+.1f}",
                    f"{100 * low:+.1f} to {100 * high:+.1f}",
                    f"{gain['p_value']:.4f}",
                ]
            )
    return PageTable(columns, rows)


def details(summary: dict[str, Any]) -> list[PageTable]:
    """Return a table for each part of a benchmark's aggregates."""
    tables = []
    for name, values in summary["aggregates"].items():
        if not isinstance(values, dict):
            continue
        if values and all(isinstance(v, dict) and "accuracy" in v for v in values.values()):
            if len(values) <= MAX_ROWS:
                tables.append(_accuracies(name, values))
        elif name != "average":
            rows = [[k, _text(v)] for k, v in values.items()]
            tables.append(PageTable(["", "value"], rows, name))
    return tables


def _accuracies(name: str, values: dict[str, Any]) -> PageTable:
    columns = ["", "accuracy", "rows"]
    rows = [[k, percent(v["accuracy"]), str(v["total"])] for k, v in values.items()]
    if all("rows_changed" in v for v in values.values()):
        columns = ["other rule", "accuracy", "rows", "verdicts changed"]
        counts = (str(v["rows_changed"]) for v in values.values())
        rows = [[*row, count] for row, count in zip(rows, counts, strict=True)]
    return PageTable(columns, rows, name)


def write_markdown(path: Path, result: dict[str, Any]) -> None:
    """Write the tables as a Markdown file."""
    weights = f" Weights {result['weights']}." if result["weights"] else ""
    lines = [f"# {markdown_text(result['model'])}", ""]
    lines += [f"Sampled as {result['kind']}.{weights}", ""]
    lines += overview(result).markdown()
    if gains(result).rows:
        lines += ["## Vision gain", "", *gains(result).markdown()]
    for summary in result["benchmarks"].values():
        lines += [f"## {markdown_text(summary['title'])}", ""]
        for part in details(summary):
            lines += [f"### {markdown_text(part.heading)}", "", *part.markdown()]
    write_text(path, "\n".join(lines) + "\n")


def write_html(
    path: Path, result: dict[str, Any], out: Path, problems: Mapping[str, Sequence[Sample]]
) -> None:
    """Write the tables and examples as one HTML page.

    `problems` are each benchmark's; responses and verdicts are read from OUT/BENCHMARK/.
    """
    sections = [
        {
            "title": summary["title"],
            "tables": details(summary),
            "examples": _examples(out / name, problems[name]),
        }
        for name, summary in result["benchmarks"].items()
    ]
    write_page(
        path,
        "report.jinja",
        title=f"Evaluation of {result['model']}",
        kind=result["kind"],
        overview=overview(result),
        gains=gains(result),
        sections=sections,
    )


def _examples(folder: Path, problems: Sequence[Sample]) -> list[ReportExample]:
    """Return the first correct and the first wrong responses, one per problem."""
    known = {problem.id: problem for problem in problems}
    responses = {
        (_key(row), row["sample"]): row["response"]
        for _, row in read_jsonl(folder / "responses.jsonl")
    }
    shown: dict[bool, dict[str, ReportExample]] = {True: {}, False: {}}
    for _, verdict in read_jsonl(folder / "scored.jsonl"):
        key, correct = _key(verdict), bool(verdict["correct"])
        if len(shown[correct]) < EXAMPLES and key in known and key not in shown[correct]:
            response = responses[key, verdict.get("sample", 0)]
            shown[correct][key] = _example(known[key], response, verdict)
    return [*shown[True].values(), *shown[False].values()]


def _example(problem: Sample, response: str, verdict: dict[str, Any]) -> ReportExample:
    return ReportExample(
        key=problem.id,
        correct=verdict["correct"],
        images=[_thumbnail(data) for data in problem.images],
        prompt=clipped(problem.problem.replace(IMAGE_MARK, "")),
        response=clipped(response),
        extraction=json.dumps(verdict["extraction"], ensure_ascii=False)[:300],
        answer=str(problem.metadata["published"]["answer"])[:300],
        reason=str(verdict["reason"])[:500],
    )


def clipped(text: str) -> str:
    """Cut the middle out of a long text: the answer is at its end."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[{len(text) - MAX_TEXT:,} characters left out]\n{text[-half:]}"


def _thumbnail(data: bytes) -> str:
    from sapo_vl.data.images import open_image

    image = open_image(data)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    out = BytesIO()
    image.save(out, "JPEG", quality=80)
    return data_uri(out.getvalue(), "jpeg")


def _key(row: dict[str, Any]) -> str:
    return problem_key(row["problem_id"], row.get("variant"))


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(map(_text, value))  # an interval
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)
