"""Gold answers: out of worked solutions, and a column's integers as texts or indices."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.data.readers.choices import parse_choices
from sapo_vl.data.readers.golds import IndexVotes, final_part, read_gold_cell, worked_answer
from sapo_vl.data.readers.literals import is_missing, parse_literal
from sapo_vl.errors import DataError


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("Ann has 3+4=<<3+4=7>>7 apples.\n#### 7", "7"),
        ("so #### -1,234", "-1,234"),
        (r"Thus $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"either $\boxed{-2}$, $\boxed{1}$ or $\boxed{3}$", "-2, 1, 3"),
        (r"It is \boxed{5}, as said: \boxed{5}", "5"),
        ("<think>two?</think>\nThe answer is 3.", "3"),
        ("<think>\\boxed{9}</think><answer>4</answer>", "4"),
        ("The answer is $\\frac{1}{2}$.", r"\frac{1}{2}"),
        ("Answer: 7", "7"),
        ("答案是5", "5"),
        ("5 cm", "5 cm"),
        ("length = 5, width = 8, height = 3", "length = 5, width = 8, height = 3"),
        ("no real solutions exist", "no real solutions exist"),
        ("(1)1. increasing 2. decreasing", "(1)1. increasing 2. decreasing"),
        ("2 P.M.", "2 P.M."),
    ],
)
def test_the_answer_of_a_solution(cell, answer):
    assert read_gold_cell(cell, (), "from 0", None).answer == answer


@pytest.mark.parametrize(
    "cell",
    [
        r"first \boxed{1}, from which we then get \boxed{2}",
        r"\boxed{1",
        "<answer>5",
        "<think>never closed",
        "Let x = 3. Then 2x = 6 and so we get 6",
        "We add 3 and 4 and get 3 + 4 = 7 apples",
        "Step 1: do.\nStep 2: done.\nx = 4",
        "word " * 200,
        ["3", "three"],
        {"value": 3},
    ],
)
def test_a_solution_without_a_marked_answer_is_refused(cell):
    with pytest.raises(DataError, match="answer"):
        read_gold_cell(cell, (), "from 0", None)


@pytest.mark.parametrize(
    "word",
    [None, float("nan"), "", " ", "nan", "NaN", "None", "none", "null", "NULL", "N/A", "n/a",
     "<NA>", "NaT", "#N/A", "undefined", "NA"],
)  # fmt: skip
def test_missing_golds_are_empty_unless_they_are_a_choice(word):
    assert read_gold_cell(word, (), "from 0", None).answer == ""
    assert read_gold_cell(word, ("red", "blue"), "from 0", None).answer == ""
    if isinstance(word, str) and word.strip():
        assert read_gold_cell(word, ("red", word), "from 0", None).answer == "B"


def test_sodium_and_nothing_are_no_missing_values():
    assert [is_missing(word) for word in ("Na", "0", "no", "No solution", "nano")] == [False] * 5


def votes(*rows):
    found = IndexVotes()
    for gold, choices in rows:
        found.add(gold, choices)
    return found.reading()


def test_how_a_columns_integers_are_read():
    three = ("x", "y", "z")
    assert votes((0, three), (2, three)) == "from 0"
    assert votes((1, three), ("3", three)) == "from 1"
    assert votes((1, three), (2.0, three)) == "from 0"
    assert votes((0, three), (3, three)) == ""
    assert votes((12, ("10", "12")), ("10.0", ("10", "12"))) == "texts"
    assert votes((1, ("1", "2", "3")), (1, ("dog", "red"))) == "from 0"
    assert votes(([0, 2], three), ("[1, 3]", three)) == ""
    assert votes(*[(n % 3, three) for n in range(200)], (3, three)) == "from 0"
    assert votes(*[(n % 3, three) for n in range(50)], (3, three)) == ""


@given(st.sampled_from([0, 1]), st.lists(st.integers(2, 6), min_size=1, max_size=12), st.data())
def test_the_base_of_indices_is_found_wherever_it_shows(base, sizes, data):
    golds = [data.draw(st.integers(base, size - 1 + base)) for size in sizes]
    rows = list(zip(golds, (tuple("abcdef"[:size]) for size in sizes), strict=True))
    shows = any(gold == (0 if base == 0 else len(choices)) for gold, choices in rows)
    if shows:
        assert votes(*rows) == f"from {base}"


@pytest.mark.parametrize(
    ("printed", "items"),
    [
        ("['sky' 'blood' 'grass']", ["sky", "blood", "grass"]),
        ("['a'\n \"it's\"]", ["a", "it's"]),
        ("[1 2.5]", [1, 2.5]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("{'text': array(['a', 'b'], dtype='<U1')}", {"text": ["a", "b"]}),
        ("[np.str_('a'), nan, null, True]", ["a", None, None, True]),
        ("[[1 2]\n [3 4]]", [[1, 2], [3, 4]]),
        ("b'\\x89PNG'", b"\x89PNG"),
        ("['a' 'b' ... 'z']", "['a' 'b' ... 'z']"),
        ("(A) one", "(A) one"),
        ("[2, 5)", "[2, 5)"),
        ("[__import__('os').getcwd()]", "[__import__('os').getcwd()]"),
    ],
)
def test_printed_lists(printed, items):
    assert parse_literal(printed) == items


def test_empty_choices():
    assert parse_choices(["x", "y", None, ""]) == ("x", "y")
    assert parse_choices({"A": "x", "B": "y", "C": None}) == ("x", "y")
    for cell in (["x", None, "y"], {"A": "x", "B": "", "C": "z"}, "[None, 'x']"):
        with pytest.raises(DataError, match="a choice is empty"):
            parse_choices(cell)
    with pytest.raises(DataError, match="too many choices"):
        parse_choices(["x"] * 27)


PIECES = [
    *(r"\boxed{1}", r"\boxed{2}", r"\boxed{", "}", "<answer>", "</answer>", "<think>", "</think>"),
    *("#### 7", "The answer is 3. ", "x = 4 ", "and ", "some words here ", "\n", "$", "5"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_no_solution_is_a_gold_whole(text):
    try:
        answer = final_part(text)
    except DataError:
        return
    assert "<think>" not in answer
    assert "####" not in answer
    assert r"\boxed{1}" not in answer
    assert "answer is" not in answer


def test_long_golds_take_no_time():
    started = time.perf_counter()
    for part in ("\\boxed{", "{", "}", "<answer>", "####", "answer is ", "$", "= ", "a. ", "<<"):
        try:
            worked_answer(part * 20_000)
        except DataError:
            continue
    assert time.perf_counter() - started < 5
