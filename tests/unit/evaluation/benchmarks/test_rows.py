"""Rows of responses files: what a benchmark's rule needs, golds in any dress, wrong types."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sapo_vl.errors import DataError
from sapo_vl.evaluation import score
from sapo_vl.evaluation.benchmarks import BENCHMARKS
from sapo_vl.evaluation.benchmarks.rows import read_response

FOUR = ["12", "15", "18", "21"]
ROW = {"model": "m", "problem_id": "p", "response": ""}
MATHVISTA = {"question_type": "multi_choice", "answer_type": "text"}
KINDS = {
    "mathvista": MATHVISTA,
    "mathverse": {"question_type": "multi-choice"},
    "dynamath": {"answer_type": "multiple choice"},
    "tabmwp": {"question_type": "multi_choice"},
}
"""What a multiple-choice row of these benchmarks has besides the choices."""

NAMES_B = {
    "dynamath": '{"short answer": "B"}', "wemath": "<Answer>: B", "tabmwp": "B",
    "mathvision": "\\boxed{B}", "emma": "\\boxed{B}",
}  # fmt: skip
"""Responses that name B in the form that a benchmark asks for; else "The answer is (B)."."""

CHOICE = (
    "mathvista", "mathverse", "mathvision", "wemath", "logicvista", "dynamath", "mmmu", "mmmu_pro",
    "emma", "tabmwp",
)  # fmt: skip


def verdict(name, **row):
    response = read_response(ROW | row, "in.jsonl:7", BENCHMARKS[name])
    return score.score(BENCHMARKS[name], [response])[0]


def choice_verdict(name, gold, response=None, choices=FOUR):
    said = response or NAMES_B.get(name, "The answer is (B).")
    return verdict(name, gold=gold, response=said, choices=choices, **KINDS.get(name, {})).correct


@pytest.mark.parametrize("name", [*CHOICE, "geometry3k", "mmk12"])
@pytest.mark.parametrize("gold", ["B", "b", "(B)", "B ", "(b)", "B.", "[B]", ["B"]])
def test_a_letter_in_any_dress_is_the_letter(name, gold):
    assert choice_verdict(name, gold) is True


@pytest.mark.parametrize("name", [n for n in CHOICE if n not in ("logicvista", "dynamath")])
@pytest.mark.parametrize("gold", ["15", 15, 15.0, "B. 15", "(B) 15", " 15 "])
def test_the_text_of_a_choice_is_its_letter(name, gold):
    assert choice_verdict(name, gold) is True


@pytest.mark.parametrize("name", CHOICE)
@pytest.mark.parametrize("gold", ["E", "(e)", "z"])
def test_a_gold_beyond_the_choices_has_no_verdict(name, gold):
    assert choice_verdict(name, gold) is None


@pytest.mark.parametrize("gold", ["16", "B. 18", "A or B", 2])
def test_a_gold_that_names_no_choice_has_no_verdict(gold):
    assert choice_verdict("mmmu", gold) is None
    assert choice_verdict("wemath", gold) is None


def test_a_text_that_is_one_choice_and_the_letter_of_another_is_not_guessed():
    assert choice_verdict("mmmu", "b", choices=["b", "a"]) is None
    assert choice_verdict("mmmu", "B", choices=["b", "a"]) is True  # the published form
    assert choice_verdict("mmmu", "x", "(A)", choices=["x", "x"]) is None


@pytest.mark.parametrize("gold", ["B, D", "b,d", "D;B", "(B), (D)", "BD", "B and D", ["B", "D"]])
def test_several_letters(gold):
    found = verdict("logicvista", gold=gold, response="The answer is B, D.")
    assert found.correct is True
    assert verdict("logicvista", gold=gold, response="The answer is B.").correct is False
    assert verdict("logicvista", gold=gold, response="B", choices=["x", "y"]).correct is None


def test_the_two_odd_golds_of_logicvista_are_compared_as_they_are():
    assert verdict("logicvista", gold="3", response="The answer is C.").correct is False
    assert verdict("logicvista", gold="", response="The answer is C.").correct is False
    assert verdict("logicvista", gold=None, response="The answer is C.").correct is None


@pytest.mark.parametrize(
    "choices",
    [
        {"choices": {"a": "12", "b": "15"}},
        {"choices": {"(A)": "12", "B.": "15"}},
        {"choices": "['12', '15']"},
        {"choices": '["12", "15"]'},
        {"choices": "A. 12; B. 15"},
        {"choices": "['12' '15']"},  # as numpy and pandas print it
        {"choices": ["12", "15", None]},
        {"choices": [{"text": "12"}, {"text": "15"}]},
        {"options": ["12", "15"]},
        {"choices": None, "options": {"A": "12", "B": "15"}},
        {"A": "12", "B": "15"},
        {"A": 12, "B": 15, "C": None},
        {"option_a": "12", "option_b": "15"},
        {"Choice A": "12", "Choice B": "15"},
    ],
)
def test_choices_in_every_common_form(choices):
    response = read_response(ROW | {"gold": "B"} | choices, "x", BENCHMARKS["mmmu"])
    assert response.choices == {"A": "12", "B": "15"}
    assert response.answer == "B"


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("mathvista", {"answer_type": "float", "precision": 1}, "question_type"),
        ("mathvista", {"question_type": "free_form"}, "answer_type"),
        ("mathvista", {"question_type": "free_form", "answer_type": "float"}, "precision"),
        ("mathvista", {"question_type": "free-form", "answer_type": "text"}, "question_type"),
        ("mathvista", {"question_type": "free_form", "answer_type": "number"}, "answer_type"),
        ("mathvista", MATHVISTA, "choices"),
        ("mathverse", {}, "question_type"),
        ("mathverse", {"question_type": "multi_choice"}, "question_type"),
        ("dynamath", {}, "answer_type"),
        ("dynamath", {"answer_type": "integer"}, "answer_type"),
        ("mmmu", {"question_type": "multiple-choice"}, "choices"),
        ("mmmu_pro", {}, "choices"),
        ("mmmu_pro", {"choices": []}, "choices"),
        ("tabmwp", {"question_type": "multi_choice"}, "choices"),
        ("tabmwp", {"question_type": "open"}, "question_type"),
        ("superclevr", {"gold": "seven"}, "gold"),
        ("superclevr", {"gold": 7.5}, "gold"),
        ("aime24", {"gold": "7/2"}, "gold"),
        ("aime25", {"gold": ["7", "8"]}, "gold"),
        ("mathvision", {"gold": ["7", "8"]}, "gold"),
        ("olympiadbench", {"error": "inf"}, "error"),
        ("olympiadbench", {"error": "-1"}, "error"),
    ],
)
def test_a_field_that_the_rule_needs_is_named(name, row, field):
    with pytest.raises(DataError, match=rf"^in\.jsonl:7: {field} "):
        verdict(name, **({"gold": "7"} | row))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("response", ["a"]), ("response", float("nan")), ("response", 5), ("response", True),
        ("response", {"text": "a"}), ("gold", float("nan")), ("gold", float("inf")),
        ("gold", True), ("gold", {"a": 1}), ("gold", [float("nan")]), ("gold", [["5"]]),
        ("choices", float("nan")), ("choices", 3), ("choices", "one text"), ("choices", ["x"] * 27),
        ("choices", {"A": "x", "a": "y"}), ("choices", {"first": "x"}), ("choices", {"1": "x"}),
        ("question_type", 3), ("answer_type", float("nan")), ("unit", float("nan")),
        ("question", float("nan")), ("question", ["q"]), ("model", None), ("model", ""),
        ("model", ["m"]), ("problem_id", None), ("problem_id", True), ("problem_id", float("nan")),
        ("variant", float("nan")), ("run", {}), ("sample", 1.5), ("sample", True), ("sample", -1),
        ("sample", "one"), ("sample", float("inf")), ("precision", 31), ("precision", -1),
        ("precision", 3_000_000_000), ("precision", float("nan")), ("precision", "1.5"),
        ("meta", []), ("meta", float("nan")), ("official_correct", 1), ("official_correct", "yes"),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_named(key, value):
    for name in ("mathvision", "mmk12"):
        with pytest.raises(DataError, match=rf"^in\.jsonl:7: {key} "):
            verdict(name, **({"gold": "7"} | {key: value}))


def test_choices_and_options_that_differ_are_refused():
    with pytest.raises(DataError, match="choices and options"):
        verdict("mmmu", gold="B", choices=["x", "y"], options=["y", "x"])


@pytest.mark.parametrize("gold", [None, "", " ", "nan", "None", "NULL", [], [""], [None]])
@pytest.mark.parametrize("name", ["mathvision", "mmk12", "hmmt24", "aime24", "superclevr", "geoqa"])
def test_a_row_without_a_gold_has_no_verdict(name, gold):
    if gold == [None]:
        with pytest.raises(DataError, match="gold"):
            verdict(name, gold=gold)
        return
    found = verdict(name, gold=gold, response="\\boxed{5} <answer>5</answer>")
    assert (found.correct, "no answer" in found.judgement.reason) == (None, True)


@pytest.mark.parametrize(
    ("kind", "gold", "response", "correct"),
    [
        ("integer", 5.0, "The answer is 5.", True),
        ("integer", "5.0", "The answer is 5.", True),
        ("integer", "1,000", "The answer is 1000.", True),
        ("integer", "3.5", "The answer is 3.5.", None),
        ("integer", "five", "The answer is 5.", None),
        ("float", 1.2, "The answer is 1.2", True),
        ("float", "1.20", "The answer is 1.2", True),
        ("float", 5, "The answer is 5.0", True),
        ("float", "x", "The answer is 5.0", None),
        ("list", [1, 2], "The answer is [1, 2]", True),
        ("text", "red", "The answer is red", True),
    ],
)
def test_mathvista_writes_a_gold_as_its_rule_does(kind, gold, response, correct):
    found = verdict("mathvista", gold=gold, response=response, answer_type=kind, precision=1,
                    question_type="free_form")  # fmt: skip
    assert found.correct is correct


def test_dynamath_floats_and_labels():
    typed = {"answer_type": "float", "response": '{"short answer": "1.5"}'}
    assert verdict("dynamath", gold=1.5, **typed).correct is True
    assert verdict("dynamath", gold="much", **typed).correct is None
    label = {"gold": "much", "answer_type": "other", "response": None, "official_correct": True}
    assert verdict("dynamath", **label).correct is True


SEVEN = {
    "dynamath": '{"short answer": "7"}', "superclevr": "<answer>7</answer>",
    "wemath": "<Answer>: G", "tabmwp": "The answer is 7.",
}  # fmt: skip
TYPES = {
    "mathvista": {"question_type": "free_form", "answer_type": "integer"},
    "mathverse": {"question_type": "free-form"},
    "dynamath": {"answer_type": "float"},
    "tabmwp": {"question_type": "free_text"},
    "mmmu_pro": {"choices": ["1", "2", "3", "4", "5", "6", "7"]},
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_thinking_is_not_scored(name):
    """The right answer inside, the wrong one after; the reverse; and thinking that never ends."""
    gold = "G" if name in ("wemath", "mmmu_pro", "logicvista") else "7"
    right = SEVEN.get(name, "The answer is (G)." if gold == "G" else "The answer is \\boxed{7}.")
    wrong = right.replace("7", "9").replace("G", "C")
    row = {"gold": gold} | TYPES.get(name, {})
    for response, correct in (
        (f"<think>{wrong}</think>\n{right}", True),
        (f"<think>{right}</think>\n{wrong}", False),
        (f"{wrong}</think>{right}", True),
        (f"{right}</think>{wrong}", False),
        (f"<think>{wrong}</think>{wrong}</think>{right}", True),
        (f"<think>{right}", False),
        (f"{right}<think>{right}", False),
        (f"<think>{wrong}</think>{right}<think>", False),
        (right, True),
    ):
        found = verdict(name, response=response, **row)
        assert found.correct is correct, response
        if response.rfind("<think>") > response.rfind("</think>"):
            assert found.extraction.value is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["B", "(b)", "12", "multi_choice", "free_form", "integer", "\ud800", "\x1b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from(
    ["gold", "answer", "response", "choices", "options", "A", "B", "question_type", "answer_type",
     "precision", "unit", "question", "variant", "run", "sample", "meta", "official_correct",
     "official_extraction", "error"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(list(BENCHMARKS)), row=st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_row_is_read_or_named(name, row):
    record = json.loads(json.dumps({"model": "m", "problem_id": 1} | row))
    said = ""
    try:
        response = read_response(record, "in.jsonl:7", BENCHMARKS[name])
    except DataError as error:
        said = str(error)
    if said:
        assert said.startswith("in.jsonl:7: ")
        assert "\n" not in said
    else:
        assert response.unscorable or response.answer is not None or BENCHMARKS[name].labels


def test_a_deeply_nested_row_is_refused():
    value: object = 1
    for _ in range(900):
        value = [value]
    for key in ("meta", "official_extraction", "other"):
        with pytest.raises(DataError, match=rf"in\.jsonl:7: {key} is nested"):
            verdict("mathvision", gold="5", **{key: {"a": value}})
