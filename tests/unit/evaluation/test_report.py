"""The report: figures in markdown, and a page that needs no other file and escapes its data."""

from __future__ import annotations

import json
from html.parser import HTMLParser

from helpers import picture

from sapo_vl.evaluation import report as benchmark_report
from sapo_vl.evaluation.benchmarks.protocol import Problem

RESULT = {
    "model": "a<b>",
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


class Tags(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_markdown_and_page(tmp_path):
    folder = tmp_path / "mathvision"
    folder.mkdir()
    problems = [Problem(str(i), "<image>Which?", (picture(20, 10),), "<script>") for i in range(2)]
    said = "<script>alert(1)</script>" + "x" * 5000 + "the end"
    responses = [p.record("m", k, said) for p in problems for k in range(2)]
    verdicts = [
        {
            "problem_id": str(i),
            "sample": k,
            "correct": bool(i),
            "extraction": "<b>",
            "reason": "<i>",
        }
        for i in range(2)
        for k in range(2)
    ]
    for name, rows in (("responses", responses), ("scored", verdicts)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    benchmark_report.markdown(tmp_path / "report.md", RESULT)
    benchmark_report.html(tmp_path / "report.html", RESULT, tmp_path, {"mathvision": problems})
    text = (tmp_path / "report.md").read_text()
    assert "| MathVision | 50.0 % | 10.0 to 90.0 | 2 | 2 | 1 | 0 | 0 | 3 | official rule |" in text
    assert "| x\\|y | 50.0 % | 2 |" in text
    assert "| same_text | 0.0 % | 2 | 1 |" in text
    assert "| MathVision | blank | 50.0 % | 25.0 % | +25.0 | +0.0 to +50.0 | 0.5000 |" in text
    page = (tmp_path / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert tags.seen.count("img") == 2
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert page.count('class="right"') == page.count('class="wrong"') == 1  # one of two samples
    assert page.count("characters left out]") == page.count("the end</pre>") == 2
    assert "| counts | IK 4, IG 0 |" in text
    assert "| ci95 | 0.2500 to 0.5000 |" in text
    assert "| RM | - |" in text
