"""Any response and any published extraction gets a verdict and a line of JSON; none crashes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sapo_vl.evaluation import score
from sapo_vl.evaluation.benchmarks import BENCHMARKS
from sapo_vl.evaluation.benchmarks.rows import read_response

WHOLE = ("superclevr", "aime24")  # a gold answer that is no whole number is the file's mistake
RULES = (
    "mathvista", "mathvision", "wemath", "logicvista", "dynamath", "mmmu", "mmmu_pro", "emma",
    "tabmwp", *WHOLE,
)  # fmt: skip
"""The benchmarks that ask no worker process: quick enough for many examples."""

PIECES = st.sampled_from(
    [
        "\\boxed{", "}", "{", "\\text{", "(A)", "(B) ", "A", "C.", "Answer:", "The answer is ",
        " is ", "final answer", "<answer>", "</answer>", "<think>", "</think>",
        '{"short answer": "', '"', "1,234", "50%", "5\\%", "90^\\circ", "30°", "\\frac{1}{2}",
        "\\frac12", "\\sqrt3", "\\sqrt",
        "1/0", "10^{400}", "300!", "0^{-1}", "9" * 399, "(-8)^{1/3}", "\\log_{1} 5", "\\arcsin{2}",
        "e^{1000}", "nan", "-inf", "1e999", "5π", "\\pm", "=", "\\approx", "'", "\\{", "\\}",
        "[1, 2]", "(1,2)", "\r\n", "  ", "答案是", "选B", "，", "½", "²", "٣", "\ud800", "\x00",
        "\u2028", "equal to",
    ]
)  # fmt: skip
TEXT = st.lists(PIECES | st.text(max_size=4), max_size=14).map("".join)


def rows(gold: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(
        {
            "model": st.just("m"),
            "problem_id": st.just("1"),
            "gold": gold,
            "response": st.none() | TEXT,
            "choices": st.sampled_from(
                [None, ["red", "equal to", "½"], {"A": "x", "B": "10^{400}"}]
            )
            | st.lists(PIECES, min_size=1, max_size=5),
            "question_type": st.sampled_from([None, "multi_choice", "free_form"]),
            "answer_type": st.sampled_from([None, "integer", "float", "list", "multiple choice"]),
            "precision": st.sampled_from([None, 1, 2]),
            "unit": st.sampled_from([None, "cm", ""]),
            "official_extraction": TEXT | st.lists(TEXT, max_size=3) | st.integers() | st.floats(),
        }
    )


@pytest.mark.parametrize("name", RULES)
def test_any_row_gets_a_verdict_and_a_line(name, tmp_path):
    gold = st.sampled_from(["7", "025"]) if name in WHOLE else TEXT.filter(bool)
    out = tmp_path / "out.jsonl"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(record=rows(gold), from_extraction=st.booleans())
    def holds(record, from_extraction):
        row = read_response(json.loads(json.dumps(record)), "x")
        scored = score.score(BENCHMARKS[name], [row], from_extraction=from_extraction)
        score.write(out, scored)
        (text,) = out.read_text(encoding="utf-8").split("\n")[:-1]
        line = json.loads(text, parse_constant=pytest.fail)
        assert line["correct"] in (True, False, None)
        assert line["reason"]
        json.dumps(score.summary(BENCHMARKS[name], scored), allow_nan=False)

    holds()
