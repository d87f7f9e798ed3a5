"""How golds are read: counted by rule, with the doubtful ones named."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace

import pytest
from helpers import SHARED, make_sample

from sapo_vl.cli.gold_check import GoldCheck, bare_value
from sapo_vl.data import Dropped, store, synthetic
from sapo_vl.data.gold_counts import GoldCounts
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.report import Report
from sapo_vl.data.source_loader import source_function
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.rewards.verifiers import answer
from sapo_vl.schema import Outcome, Sample, Verdict

RAW = SHARED / "raw"


def gold(text, kind="number", **changes):
    return replace(make_sample(name=text), answer=text, answer_type=kind, **changes)


def test_counts_by_rule_with_the_doubtful_ones_named():
    counts = GoldCounts()
    for sample in (
        gold("7"),
        gold("8"),
        gold("5 cm"),
        gold("red", "text"),
        gold("4:30", "text"),
        gold("A", "choice"),
        gold("3", "count"),
    ):
        counts.add(sample)
    assert counts.rules["number: number"] == 2
    assert counts.rules["number: quantity"] == 1
    assert counts.rules["text: words"] == 1
    assert (counts.rules["choice"], counts.rules["count"]) == (1, 1)
    ((reason, doubts),) = counts.doubtful.items()
    assert reason.startswith("text by the source")
    assert (doubts.count, doubts.examples) == (1, ["4:30 ('4:30')"])
    assert (counts.text, counts.free) == (2, 6)
    assert counts.warning() == ""
    for _ in range(4):
        counts.add(gold("blue", "text"))
    assert counts.warning().startswith("warning: 6 of 10 ")
    assert any("doubtful" in line and "'4:30'" in line for line in counts.lines())


def _unnamed_texts(samples):
    """The golds that are text, have a digit, and are not among the doubtful ones."""
    found = []
    for sample in samples:
        counts = GoldCounts()
        counts.add(sample)
        has_number = any(char.isdigit() for char in sample.answer)
        if sample.answer_type == "text" and has_number and not counts.doubtful:
            found.append(sample.answer)
    return found


def test_no_gold_of_the_main_job_with_a_number_is_silently_text():
    samples = [
        *synthetic.rows(seed=0, split="train", count=300),
        *synthetic.rows(seed=0, split="train", count=60, level=2),
    ]
    assert _unnamed_texts(samples) == []
    assert not any(s.answer_type == "text" and s.answer.isdigit() for s in samples)


@pytest.mark.skipif(not RAW.is_dir(), reason="the raw sample ../shared/raw is not here")
@pytest.mark.parametrize("name", ["mmk12", "dynamath", "tabmwp"])
def test_no_gold_of_a_real_source_with_a_number_is_silently_text(name):
    samples = [r for r in source_function(name)(RAW / name) if isinstance(r, Sample)]
    assert len(samples) >= 150
    assert _unnamed_texts(samples) == []
    dressed = [replace(s, answer=f"{s.answer} apples", answer_type="text") for s in samples[:40]]
    assert _unnamed_texts(dressed) == []


def test_the_report_survives_an_interruption():
    report = Report("x", "y")
    report.keep(replace(gold("about 5 red ones", "text"), metadata={"reading_notes": ["a", "a"]}))
    report.drop(Dropped("b\x1b", "why: \ud800"))
    restored = Report.from_dict(asdict(report))
    assert restored == report
    assert restored.notes == {"a": 2}
    assert restored.dropped["why"].examples == ["b\\x1b (\\ud800)"]


def test_a_quantity_of_the_type_text_has_to_pass_without_its_unit(monkeypatch):
    assert bare_value(gold("5 cm", "text")) == "5"
    assert bare_value(gold("1,234.5 people", "text")) == "1,234.5"
    assert bare_value(gold("5 cm")) is None
    assert bare_value(gold("7", "text")) is None
    assert bare_value(gold("2 h 30 min", "text")) is None
    assert bare_value(gold("red", "text")) is None
    assert bare_value(gold("5 cm", "choice", choices=("5 cm", "6 cm"))) is None
    with closing(GoldCheck("answer")) as check:
        assert check(gold("5 cm", "text")) is None  # such a gold is compared as mathematics
        words = [Verdict(Outcome.WRONG, 0.0, "other words")]
        monkeypatch.setattr(Rubric, "check_gold", lambda self, samples: None)
        monkeypatch.setattr(Rubric, "verdicts", lambda self, name, pairs: words)
        assert "5 without the unit of '5 cm'" in check(gold("5 cm", "text"))


def test_chartqas_five_percent_reach_the_verifier(tmp_path):
    (tmp_path / "test" / "png").mkdir(parents=True)
    sample = make_sample([(40, 40)])
    (tmp_path / "test" / "png" / "a.png").write_bytes(sample.images[0])
    (tmp_path / "test" / "test_human.json").write_text(
        '[{"imgname": "a.png", "query": "How many?", "label": "100"}]'
    )
    prepare("chartqa", PrepareOptions(tmp_path / "set", source=tmp_path))
    (stored,) = store.load(tmp_path / "set", "test")
    assert stored.rel_tol == 0.05
    scores = [answer.score(stored, f"\\boxed{{{n}}}").score for n in (100, 98, 105, 94)]
    assert scores == [1, 1, 1, 0]


def test_a_column_rel_tol_is_read_only_where_it_is_mapped(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"problem": "?", "answer": "100", "rel_tol": "0.1", "tol": "5%"}\n')
    options = PrepareOptions(tmp_path / "a", source=file, holdout=0)
    prepare("generic", options)
    assert store.load(tmp_path / "a", "train")[0].rel_tol is None
    mapped = replace(options, out=tmp_path / "b", columns="rel_tol=rel_tol")
    prepare("generic", mapped)
    assert store.load(tmp_path / "b", "train")[0].rel_tol == 0.1
    with pytest.raises(ValueError, match="rel_tol is not a number between 0 and 1: '5%'"):
        prepare("generic", replace(options, out=tmp_path / "c", columns="rel_tol=tol"))
