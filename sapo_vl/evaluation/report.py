"""An evaluation as markdown and as one self-contained HTML page with example problems."""

from __future__ import annotations

import base64
import html as markup
import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks.protocol import Problem
from sapo_vl.evaluation.benchmarks.sources import read_jsonl
from sapo_vl.schema import IMAGE_MARK

EXAMPLES = 4  # problems answered right, and as many answered wrong, of each benchmark
THUMBNAIL = 480  # pixels of the longer side
MAX_TEXT = 4000  # characters of a prompt or a response in the page: its beginning and its end
LARGEST_TABLE = 40  # rows; larger tables are in summary.json only

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;
color:#1c2024;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
th,td{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.example{border:1px solid #ddd;border-radius:.5rem;padding:1rem;margin:1rem 0}
.example img{max-width:100%;max-height:20rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f7f8;padding:.75rem;
border-radius:.25rem}
.right{color:#106b3c}.wrong{color:#a02020}
@media(prefers-color-scheme:dark){body{background:#16181a;color:#e6e8ea}pre{background:#22262a}
th,td,.example{border-color:#3a3f44}.right{color:#6fd39c}.wrong{color:#ff8f8f}.example img{
background:#fff}}
"""

Table = tuple[list[str], list[list[str]]]


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a temporary name and rename it."""
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def overview(result: dict[str, Any]) -> Table:
    """Return columns and rows of the table of all benchmarks."""
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
    return columns, rows


def gains(result: dict[str, Any]) -> Table:
    """Return the table of vision gains; no rows when no controls were run."""
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
    return columns, rows


def details(summary: dict[str, Any]) -> list[tuple[str, Table]]:
    """Return (heading, table) for each part of a benchmark's aggregates."""
    parts = []
    for name, values in summary["aggregates"].items():
        if not isinstance(values, dict):
            continue
        if values and all(isinstance(v, dict) and "accuracy" in v for v in values.values()):
            if len(values) <= LARGEST_TABLE:
                parts.append((name, _accuracies(values)))
        elif name != "average":
            rows = [[k, _value(v)] for k, v in values.items()]
            parts.append((name, (["", "value"], rows)))
    return parts


def _accuracies(values: dict[str, Any]) -> Table:
    rows = [[k, percent(v["accuracy"]), str(v["total"])] for k, v in values.items()]
    if not all("rows_changed" in v for v in values.values()):
        return ["", "accuracy", "rows"], rows
    changed = [str(v["rows_changed"]) for v in values.values()]
    columns = ["other rule", "accuracy", "rows", "verdicts changed"]
    return columns, [[*row, count] for row, count in zip(rows, changed, strict=True)]


def markdown(path: Path, result: dict[str, Any]) -> None:
    """Write the figures as a markdown file."""
    lines = [f"# {result['model']}", "", f"Sampled as {result['kind']}.", ""]
    lines += _markdown_table(overview(result))
    if gains(result)[1]:
        lines += ["## Vision gain", "", *_markdown_table(gains(result))]
    for summary in result["benchmarks"].values():
        lines += [f"## {summary['title']}", ""]
        for name, part in details(summary):
            lines += [f"### {name}", "", *_markdown_table(part)]
    _replace(path, "\n".join(lines) + "\n")


def html(path: Path, result: dict[str, Any], out: Path, sets: dict[str, list[Problem]]) -> None:
    """Write one page without outside files: figures, and examples with their images."""
    title = markup.escape(f"Evaluation of {result['model']}")
    body = [f"<h1>{title}</h1><p>Sampled as {markup.escape(result['kind'])}.</p>"]
    body.append(_html_table(overview(result)))
    if gains(result)[1]:
        body.append("<h2>Vision gain</h2>" + _html_table(gains(result)))
    for name, summary in result["benchmarks"].items():
        body.append(f"<h2>{markup.escape(summary['title'])}</h2>")
        for heading, part in details(summary):
            body.append(f"<details><summary>{markup.escape(heading)}</summary>")
            body.append(_html_table(part) + "</details>")
        body += _examples(out / name, sets[name])
    _replace(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{STYLE}</style></head><body>'
        + "\n".join(body)
        + "</body></html>\n",
    )


def _examples(folder: Path, problems: Sequence[Problem]) -> list[str]:
    known = {problem.key: problem for problem in problems}
    responses = _lines(folder / "responses.jsonl")
    texts = {(_key(r), r["sample"]): r["response"] for r in responses}
    shown: dict[bool, dict[str, str]] = {True: {}, False: {}}
    for verdict in _lines(folder / "scored.jsonl"):
        key, right = _key(verdict), bool(verdict["correct"])
        if len(shown[right]) < EXAMPLES and key in known and key not in shown[right]:
            text = texts[key, verdict.get("sample", 0)]
            shown[right][key] = _example(known[key], text, verdict)
    return [*shown[True].values(), *shown[False].values()]


def _example(problem: Problem, response: str, verdict: dict[str, Any]) -> str:
    right = verdict["correct"]
    word = "right" if right else "wrong" if right is not None else "no verdict"
    images = "".join(
        f'<img alt="image {i + 1} of problem {markup.escape(problem.id)}" src="{_inline(data)}">'
        for i, data in enumerate(problem.images)
    )
    prompt = problem.prompt.replace(IMAGE_MARK, "")
    extraction = json.dumps(verdict["extraction"], ensure_ascii=False)
    return (
        f'<div class="example"><h3>{markup.escape(problem.key)}: '
        f'<span class="{"right" if right else "wrong"}">{word}</span></h3>{images}'
        f"<pre>{markup.escape(_clipped(prompt))}</pre><p>Response</p>"
        f"<pre>{markup.escape(_clipped(response)) or '(empty)'}</pre>"
        f"<p>Extraction: <code>{markup.escape(extraction[:300])}</code><br>"
        f"Gold: <code>{markup.escape(str(problem.gold)[:300])}</code><br>"
        f"Verdict: {markup.escape(str(verdict['reason'])[:500])}</p></div>"
    )


def _clipped(text: str) -> str:
    """Return the text, without its middle where it is long: an answer stands at the end."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[{len(text) - MAX_TEXT:,} characters left out]\n{text[-half:]}"


def _inline(data: bytes) -> str:
    from sapo_vl.data.images import open_image

    image = open_image(data)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = BytesIO()
    image.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _key(row: dict[str, Any]) -> str:
    return f"{row['problem_id']}#{row['variant']}" if row.get("variant") else row["problem_id"]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(map(_value, value))  # an interval
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)


def _markdown_table(part: Table) -> list[str]:
    columns, rows = part
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [*lines, ""]


def _html_table(part: Table) -> str:
    columns, rows = part
    number = [
        bool(rows) and all(row[i][:1] in "+-0123456789" for row in rows if row[i])
        for i in range(len(columns))
    ]

    def line(cells: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if right else ''}>{markup.escape(cell)}</{tag}>"
            for cell, right in zip(cells, number, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(columns, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
