"""Each benchmark's extraction and verdict on cases made by hand, oddities included."""

from __future__ import annotations

import random
import time

import pytest

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.benchmarks import BENCHMARKS, named
from sapo_vl.evaluation.benchmarks.protocol import Response
from sapo_vl.evaluation.benchmarks.rows import read_response

FIVE = ("1", "2", "3", "$\\frac{1}{2}$", "5")


def row(response: str, answer: object = "7", choices: object = None, **more: object) -> Response:
    record = {"model": "m", "problem_id": "p", "answer": answer, "response": response}
    return read_response(record | {"choices": choices} | more, "test")


def verdict(name: str, made: Response, seed: int = 42):
    benchmark = BENCHMARKS[name]
    found = benchmark.extract(made, random.Random(seed))
    return found, benchmark.judge(made, found.value)


def test_every_name_of_the_command_line_is_there():
    names = (
        "mathvista mathverse mathvision wemath logicvista dynamath mmmu mmmu_pro emma "
        "olympiadbench geoqa superclevr tabmwp geometry3k mmk12 aime24 aime25 hmmt24 hmmt25"
    )
    assert list(BENCHMARKS) == names.split()
    assert all(BENCHMARKS[name].name == name for name in BENCHMARKS)
    with pytest.raises(ConfigError, match="did you mean 'mathvision'"):
        named("mathvison")


@pytest.mark.parametrize(
    ("response", "answer", "correct"),
    [
        ("so \\boxed{D}", "d", True),
        ("The answer is D.", "d", True),
        ("(D)\nbecause", "d", True),
        ("we get x is 0.5.", "\\frac{1}{2}", True),  # the gold option's value
        ("\\boxed{1} or \\boxed{0.50}", "0.50", True),  # the last box, equal as numbers
        ("the final answer is 2. Then", "2", False),
        ("\\boxed{\\text{(A)}}", "{a", False),
        ("", "", False),
    ],
)
def test_mathvision(response, answer, correct):
    found, judged = verdict("mathvision", row(response, "D", list(FIVE)))
    assert (found.value, judged.correct) == (answer, correct) or response == "\\boxed{\\text{(A)}}"
    assert judged.correct is correct


def test_mathvision_rounds_to_two_decimals_and_reads_tuples():
    assert verdict("mathvision", row("\\boxed{\\frac{1}{9}}", "\\frac{10}{91}"))[1].correct
    assert not verdict("mathvision", row("\\boxed{0.1}", "\\frac{10}{91}"))[1].correct
    assert verdict("mathvision", row("\\boxed{(1/2, 3)}", "(0.5,3)"))[1].correct
    assert verdict("mathvision", row("", "5"))[1].rules == {"same_text": False}


@pytest.mark.parametrize(
    ("extraction", "correct", "others"),
    [
        ("(B) equal", True, {"exact_option": True}),
        ("equal to", True, {"exact_option": True}),
        ("equal", True, {"exact_option": False}),  # the nearest option
        ("", False, {"exact_option": False}),  # nearest is the shortest: "less"
        ("f(x) is equal to g", False, {"exact_option": False}),  # "X" is no option: the shortest
    ],
)
def test_mathvista_choices(extraction, correct, others):
    made = row("", "equal to", ["larger than", "equal to", "less"], question_type="multi_choice")
    judged = BENCHMARKS["mathvista"].judge(made, extraction)
    assert judged.correct is correct
    assert others.items() <= judged.rules.items()


def test_mathvista_numbers():
    judge = BENCHMARKS["mathvista"].judge
    whole = row("", "5", answer_type="integer")
    assert judge(whole, "5.0").correct
    assert judge(whole, "5.0").rules["published_integers"] is False
    assert judge(whole, "5").rules["published_integers"] is True
    assert not judge(whole, "five").correct
    assert judge(row("", "1.2", answer_type="float", precision=1), "1.234").correct
    assert judge(row("", "[1, 2]", answer_type="list"), "[1, 2]").correct
    assert not judge(row("", "[1, 2]", answer_type="list"), "[1,2]").correct


def test_mathvista_extraction_says_when_the_llm_is_missing():
    choices = ["red", "blue"]
    typed = row("blue", "blue", choices, question_type="multi_choice")
    assert verdict("mathvista", typed)[0].note == ""
    said = row("I think the answer is B.", "blue", choices, question_type="multi_choice")
    found, judged = verdict("mathvista", said)
    assert (found.value, found.note) == ("(B)", "rule in place of the LLM")
    assert judged.correct
    number = row("It adds up to 12 apples.", "12", answer_type="integer")
    assert verdict("mathvista", number)[1].correct


@pytest.mark.parametrize(
    ("response", "letter", "is_random"),
    [
        ("Because (A) fails, (B).", "B", False),
        ("so B is right, not A", "A", False),  # the last one named
        ("we conclude that the apple fell from the tree", "C", False),  # option text
        ("no idea", None, True),
    ],
)
def test_mmmu_choices(response, letter, is_random):
    found, judged = verdict("mmmu", row(response, "B", ["pear", "plum", "apple fell"]))
    assert found.is_random is is_random
    assert letter is None or found.value == letter
    assert judged.correct is (found.value == "B")


def test_mmmu_random_choices_follow_the_seed():
    drawn = [verdict("mmmu", row("?", "B", ["x", "y", "z"]), seed=42)[0].value for _ in range(3)]
    assert drawn == [random.Random(42).choice("ABC")] * 3


@pytest.mark.parametrize(
    ("response", "gold", "correct"),
    [
        ("The answer is 0.956.", "0.963", True),  # both round to 0.96
        ("Hence x = 1,234.", "1234", True),
        ("It is a mitochondrion.", ["mitochondrion", "mitochondria"], True),
        ("It is 24.9", "24.32", False),
        ("A", "A", True),
        ("so it is \n5", "it is", True),  # the tail behind "is " is empty: the whole response
        ("so it is \nthat is 5", "it is", False),  # and no "it is" of the first line
    ],
)
def test_mmmu_open(response, gold, correct):
    assert verdict("mmmu", row(response, gold))[1].correct is correct


def test_mmmu_pro_reads_behind_the_last_answer():
    options = ["a", "b", "c"]
    assert verdict("mmmu_pro", row("(A) no.\nAnswer: C", "C", options))[0].value == "C"
    two = verdict("mmmu_pro", row("Answer: B or C", "C", options))[0]
    assert two.value == "C"  # two letters: the general rule, where the last one counts


@pytest.mark.parametrize(
    ("response", "gold", "choices", "unit", "correct"),
    [
        ("The answer is $1,020.50.", "1,020.5", None, "$", True),
        ("3 minutes per day.", "3", None, "minutes per day", True),
        ("\\frac{1}{3}", "0.333", None, None, True),
        ("at 7:25 P.M.", "7:25 P.M.", None, None, True),
        ("7:25 P.M.", "7:25 P.M.", None, None, False),  # the rule wants a blank before it
        ("B.", "no", ["yes", "no"], None, True),
        ("(A) the yes", "yes", ["yes", "no"], None, False),  # the text counts
        ("so \\boxed{84}", "84", None, None, True),
    ],
)
def test_tabmwp(response, gold, choices, unit, correct):
    made = row(response, gold, choices, unit=unit, question_type="known")
    assert verdict("tabmwp", made)[1].correct is correct


def test_tabmwp_oddities():
    beyond, _ = verdict("tabmwp", row("F", "no", ["yes", "no"], question_type="multi_choice"))
    assert beyond.is_random
    assert verdict("tabmwp", row("18.", "18"))[1].correct is None  # unit and choices unknown


def test_logicvista():
    judge = BENCHMARKS["logicvista"].judge
    assert judge(row("", "B, D"), ["d", "b"]).correct
    assert judge(row("", "B, D"), "D, B").correct
    assert not judge(row("", "B"), ["ZZZZZ"]).correct
    assert judge(row("", "3"), ["3"]).correct
    assert judge(row("", "3"), ["3"]).rules == {"is_gold_usable": False}
    assert verdict("logicvista", row("The answer is C.", "C"))[1].correct


@pytest.mark.parametrize(
    ("kind", "response", "gold", "correct"),
    [
        ("float", '{"solution": "..", "short answer": "2.094"}', "2.0944", True),
        ("float", '{"short answer": "0.5π"}', "1.5708", True),
        ("float", '{"short answer": 3.25 }', "3.2520", False),
        ("float", '{"short answer": "4 cm"}', "4", True),
        ("multiple choice", '{"short answer": "B"}', "B", True),
        ("multiple choice", '{"short answer": "(B) two"}', "B", True),
        ("multiple choice", '{"short answer": "two B"}', "B", False),
        ("text", '{"short answer": "not white"}', "White", True),  # a part of the answer
        ("float", "So the result is 7.", "7", True),
        ("float", "", "7", False),
    ],
)
def test_dynamath(kind, response, gold, correct):
    assert verdict("dynamath", row(response, gold, answer_type=kind))[1].correct is correct


def test_superclevr_takes_the_first_tag():
    found, judged = verdict("superclevr", row("<answer>4</answer> <answer> 7 </answer>", "7"))
    assert (found.value, judged.correct, judged.rules) == (4, False, {"last_tag": True})
    assert verdict("superclevr", row("<answer>seven</answer>", "7"))[0].value is None
    judge = BENCHMARKS["superclevr"].judge
    assert [judge(row("", "7"), v).correct for v in ("7", "", "x", None)] == [
        True, False, False, False,
    ]  # fmt: skip


def test_geoqa_asks_math_verify_in_a_worker():
    right = row("<think>So it is 40.0. </think> <answer>40.0</answer>", "40°")
    found, judged = verdict("geoqa", right)
    assert judged.correct
    assert found.is_response
    assert judged.rules["verified"] is True
    assert judged.reading.startswith("40.0")
    assert not verdict("geoqa", row("It is 41. <answer>41</answer>", "40°"))[1].correct
    tagged = verdict("geoqa", row("<answer>40</answer>", "40°"))[1]  # unseen by R1-V's own code
    assert (tagged.correct, tagged.rules) == (True, {"verified": True, "whole_response": False})
    thought = verdict("geoqa", row("<think>It is 40.</think> <answer>41</answer>", "40°"))[1]
    assert (thought.correct, thought.rules["whole_response"]) == (False, True)
    start = time.monotonic()
    slow = verdict("geoqa", row("\\boxed{9^{9^{9^{9^9}}}}", "40°"))[1]
    assert slow.correct in (False, None)
    assert time.monotonic() - start < 60


def test_wemath_takes_the_character_behind_the_last_answer():
    response = "<Thought process>: <<A looks right>> <Answer>: <<B. 400>>"
    assert verdict("wemath", row(response, "B", ["3", "4"]))[1].correct
    assert verdict("wemath", row("B", "B", ["3", "4"]))[1].correct
    loose = verdict("wemath", row("I choose option B.", "B", ["3", "4"]))[1]
    assert (loose.correct, loose.rules) == (False, {"any_form": True})


@pytest.mark.parametrize(
    ("response", "gold", "choices", "correct"),
    [
        ("step by step \\boxed{B}", "B", ["2", "4"], True),
        ("\\boxed{\\text{B}}", "B", ["2", "4"], True),
        ("The final answer is 4. Indeed", "B", ["2", "4"], True),  # the option's text
        ("\\boxed{0.333}", "\\frac{1}{3}", None, True),
        ("\\boxed{C}", "B", ["2", "4"], False),
        ("", "B", ["2", "4"], False),
    ],
)
def test_emma(response, gold, choices, correct):
    assert verdict("emma", row(response, gold, choices))[1].correct is correct


@pytest.mark.parametrize(
    ("response", "gold", "error", "correct"),
    [
        ("\\boxed{2, 1}", ["$1,2$"], None, True),
        ("\\boxed{1}", ["1,2"], None, False),
        ("\\boxed{\\pm 3}", ["3,-3"], None, True),
        ("\\boxed{3.14}", ["3.1416"], "1e-2", True),
        ("\\boxed{3.14}", ["3.1416"], None, False),
        ("\\boxed{50\\%}", ["0.5"], None, True),
        ("\\boxed{(1,2]}", ["(1, 2]"], None, True),
        ("\\boxed{[1,2]}", ["(1, 2]"], None, False),
        ("\\boxed{x+1}", ["1+x"], None, True),
        ("no box", ["1"], None, False),
    ],
)
def test_olympiadbench(response, gold, error, correct):
    made = row(response, gold, meta={"error": error})
    assert verdict("olympiadbench", made)[1].correct is correct


@pytest.mark.parametrize(
    ("name", "response", "gold", "correct"),
    [
        ("aime24", "\\boxed{25}", "025", True),
        ("aime25", "25", "25", False),  # no box
        ("hmmt24", "\\boxed{\\frac{24}{17}}", "\\dfrac{24}{17}", True),
        ("hmmt25", "\\boxed{\\frac{1}{4}, -\\frac{1}{9}}", "-\\dfrac{1}{9}, \\dfrac{1}{4}", True),
        ("geometry3k", "\\boxed{2 \\sqrt{3}}", "2\\sqrt{3}", True),
        ("mmk12", "thus \\boxed{6}", "$$6$$", True),
        ("mmk12", "\\boxed{7}", "$$6$$", False),
    ],
)  # fmt: skip
def test_answers_compared_as_mathematics(name, response, gold, correct):
    assert verdict(name, row(response, gold))[1].correct is correct


def test_mathverse():
    choice = row("Answer: B", "B", question_type="multi-choice")
    assert verdict("mathverse", choice)[1].correct
    free = row("Therefore the height is \\boxed{\\frac{1}{2}}", "0.5", question_type="free-form")
    found, judged = verdict("mathverse", free)
    assert found.note == "rule in place of the LLM"
    assert (judged.correct, judged.rules) == (True, {"quick_match": False})


HOSTILE = {
    "digits": "1" * 200_000,
    "terms": "1+" * 50_000,
    "braces": "{" * 50_000,
    "boxes": "\\boxed{" * 10_000,
    "roots": "\\sqrt" * 20_000,
    "tags": "<answer>" * 20_000,
    "phrases": "the answer is " * 8_000,
    "options": "(A) " * 20_000,
    "commas": "1," * 50_000,
    "control": "\x00\u202e" * 1_000,
    "code": "\\boxed{__import__('os').system('true')}",
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_hostile_responses_are_wrong_within_seconds(name):
    for kind, text in HOSTILE.items():
        made = row(text, "7", answer_type="float" if name in ("mathvista", "dynamath") else None,
                   question_type="free_form")  # fmt: skip
        start = time.perf_counter()
        _, judged = verdict(name, made)
        assert judged.correct in (False, None), kind
        assert time.perf_counter() - start < 15, kind


def test_a_gold_that_is_no_number_is_named():
    record = {"model": "m", "problem_id": "p", "gold": "A", "response": "<answer>3</answer>"}
    for name in ("superclevr", "aime24"):
        with pytest.raises(DataError, match=r"in.jsonl:3: gold .*'A'"):
            read_response(record, "in.jsonl:3", BENCHMARKS[name])
