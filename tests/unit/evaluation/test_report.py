"""The benchmark report: tables in Markdown, and a self-contained page that escapes its data."""

from __future__ import annotations

import json

from helpers import picture
from html_pages import HOSTILE, ParsedPage, check_hostile

from sapo_vl.evaluation.problems import response_record
from sapo_vl.evaluation.report import write_html, write_markdown
from sapo_vl.runs.progress import table
from sapo_vl.schema import Sample

RESULT = {
    "model": "a<b>",
    "weights": "0123456789abcdef",
    "kind": "instruct",
    "benchmarks": {
        "mathvision": {
            "title": "MathVision", "accuracy": 0.5, "ci95": [0.1, 0.9], "problems": 2,
            "responses": 2, "not_asked": 0, "cut": 1, "no_verdict": 0,
            "extraction": "official rule",
            "aggregates": {
                "average": {"accuracy": 0.5, "percent": 50.0, "correct": 1, "total": 2},
                "subject": {"x|y": {"accuracy": 0.5, "percent": 50.0, "correct": 1, "total": 2}},
                "rules": {"same_text": {"accuracy": 0.0, "total": 2, "rows_changed": 1}},
                "strict": {"counts": {"IK": 4, "IG": 0}, "ci95": [0.25, 0.5], "RM": None},
                "random_choices": 3,
            },
            "vision_gain": {"blank": {
                "gain": 0.25, "ci95": [0.0, 0.5], "p_value": 0.5, "with_image": 0.5,
                "with_control": 0.25, "problems": 2}},
        }
    },
}  # fmt: skip


def make_problem(name, prompt, image, answer):
    published = {"problem_id": name, "answer": answer, "question": prompt}
    return Sample(name, "bench", "", prompt, (image,), "", metadata={"published": published})


def write_responses(folder, problems, response, **verdict):
    """Write two responses to each problem; those to the second one are correct."""
    folder.mkdir()
    responses = [response_record(p, "m", k, response) for p in problems for k in range(2)]
    verdicts = [
        {"problem_id": p.id, "sample": k, "correct": bool(i), **verdict}
        for i, p in enumerate(problems)
        for k in range(2)
    ]
    for name, rows in (("responses", responses), ("scored", verdicts)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)


def test_markdown(tmp_path):
    write_markdown(tmp_path / "report.md", RESULT)
    text = (tmp_path / "report.md").read_text()
    assert "| MathVision | 50.0 % | 10.0 to 90.0 | 2 | 2 | 1 | 0 | 0 | 3 | official rule |" in text
    assert "| x\\|y | 50.0 % | 2 |" in text
    assert "| same_text | 0.0 % | 2 | 1 |" in text
    assert "| MathVision | blank | 50.0 % | 25.0 % | +25.0 | +0.0 to +50.0 | 0.5000 |" in text
    assert "| counts | IK 4, IG 0 |" in text
    assert "| ci95 | 0.2500 to 0.5000 |" in text
    assert "| RM | - |" in text
    assert text.startswith("# a&lt;b>\n\nSampled as instruct. Weights 0123456789abcdef.\n")


def test_foreign_text_neither_steers_a_terminal_nor_makes_markup(tmp_path, capsys):
    evil = "x\x1b[2J\n## y <script>|"
    summary = RESULT["benchmarks"]["mathvision"] | {"title": evil}
    write_markdown(tmp_path / "r.md", RESULT | {"model": evil, "benchmarks": {"m": summary}})
    text = (tmp_path / "r.md").read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "| x\\x1b[2J\\n## y &lt;script>\\| |" in text
    assert [line for line in text.split("\n") if line.startswith("## ")] == [
        "## Vision gain",
        "## x\\x1b[2J\\n## y &lt;script>|",
    ]
    table(evil, ["a"], [["\x1b]0;title\x07"]])
    assert "\x1b" not in capsys.readouterr().out
    write_html(tmp_path / "r.html", RESULT | {"model": evil, "benchmarks": {}}, tmp_path, {})
    page = (tmp_path / "r.html").read_text()
    assert "\x1b" not in page
    assert "<script>|" not in page


def test_page(tmp_path):
    problems = [make_problem(str(i), "<image>Which?", picture(20, 10), "7") for i in range(2)]
    response = "<b>" + "x" * 5000 + "the end"
    write_responses(tmp_path / "mathvision", problems, response, extraction="7", reason="same")
    write_html(tmp_path / "report.html", RESULT, tmp_path, {"mathvision": problems})
    text = (tmp_path / "report.html").read_text()
    page = ParsedPage(text)
    assert page.tags.count("img") == 2
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert text.count('class="right"') == text.count('class="wrong"') == 1  # one of two samples
    assert text.count("characters left out]") == text.count("the end</pre>") == 2
    assert "Evaluation of a<b>" in page.text
    assert "+0.0 to +50.0" in page.text


def test_hostile_values_stay_text(tmp_path):
    summary = RESULT["benchmarks"]["mathvision"] | {"title": HOSTILE, "extraction": HOSTILE}
    summary["aggregates"] = {HOSTILE: {HOSTILE: {"accuracy": 0.5, "total": 2}}}
    result = {"model": HOSTILE, "kind": HOSTILE, "benchmarks": {"mathvision": summary}}
    problems = [make_problem(f"{HOSTILE}{i}", HOSTILE, picture(8, 8), HOSTILE) for i in range(2)]
    write_responses(tmp_path / "mathvision", problems, HOSTILE, extraction=None, reason=HOSTILE)
    write_html(tmp_path / "report.html", result, tmp_path, {"mathvision": problems})
    # model twice (title and heading), kind, benchmark in two tables and a heading, extraction,
    # aggregate's heading and row; per example: key, alt text, prompt, response, answer, reason
    check_hostile((tmp_path / "report.html").read_text(), 2 + 1 + 3 + 1 + 2 + 2 * 6)
