"""A gold with something on the left of its value."""

import pytest
from verdicts import fast


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("f(2) = 5", "f(2)=5", True),
        (r"\log_2 8 = 3", "3", True),
        (r"\log_2 8 = 3", "8", False),
        ("2+3=5", "5", True),
        ("x^2 = 4", "4", False),
        ("2x+3y=6", "6", False),
        ("x+y=10", "10", False),
        (r"P(A) = \frac{1}{3}", "1/3", True),
        (r"\lim_{x \to 0} f(x) = 3", "3", True),
        (r"\tan\theta = 2", "2", True),
        (r"\cos 60^\circ = \frac{1}{2}", "0.5", True),
        ("AB + CD = 10", "10", True),
        ("AB + CD = 10", "12", False),
        ("AB + CD = 10", "AB + CD = 10", True),
        (r"S_{\triangle ABC} = 12", "12", True),
        ("a_5 = 12", "12", True),
        ("a_5 = 12", "a_6 = 12", False),
        ("|AB| = 5", "5", True),
        ("f(x) = 2x+1", "2x+1", True),
        ("f(x) = 2x+1", "f(t) = 2t+1", True),
        ("3x = 15", "15", False),
        ("a+b = 7", "7", False),
        (r"AB \cdot CD = 12", "12", True),
        (r"\frac{a}{b} = 2", "2", False),
        ("x^2+y^2=25", "25", False),
    ],
)
def test_relations(gold, answer, equal):
    assert fast(gold, answer) is equal
