"""Gold answers are read by the verifiers' parser: type, rule and what is doubtful."""

import pytest

from sapo_vl.rewards.parsing.gold import read_gold


@pytest.mark.parametrize(
    ("gold", "answer_type", "rule"),
    [
        ("5", "number", "number"),
        ("5 cm", "number", "quantity"),
        ("36cm", "number", "quantity"),
        ("1,234 people", "number", "quantity"),
        ("50%", "number", "quantity"),
        ("2ab", "expression", "expression"),
        ("xy = 6", "equation", "named value"),
        ("2x + y = 6", "equation", "equation"),
        ("3 and 5", "set", "list"),
        ("6 or 2 or 10", "set", "list"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "expression", "matrix"),
        ("x = 3, y = 4", "tuple", "named values"),
        ("(1,2)", "tuple", "tuple"),
        (r"(0,\infty)", "interval", "interval"),
        ("x > 3", "interval", "inequality"),
        ("red cube", "text", "words"),
        ("CO2", "text", "words"),
    ],
)
def test_type_and_rule(gold, answer_type, rule):
    reading = read_gold(gold)
    assert (reading.answer_type, reading.rule) == (answer_type, rule)


@pytest.mark.parametrize(
    ("gold", "doubt"),
    [
        ("\x1b5", "control characters"),
        ("The sum is 5.\n#### 7", "worked solution"),
        ("Type 2 diabetes", "digit"),
        (r"\frac{1}{2", "braces"),
        ("red cube", ""),
        ("5 cm", ""),
    ],
)
def test_doubts(gold, doubt):
    found = read_gold(gold).doubtful
    assert doubt in found
    assert bool(found) == bool(doubt)
