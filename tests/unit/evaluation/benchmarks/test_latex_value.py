"""The number of a LaTeX answer, against values worked out by hand and the rule's own oddities."""

from __future__ import annotations

import math
import time

import pytest

from sapo_vl.evaluation.benchmarks.latex_value import rounded, value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12),
        ("1,234", 1234),
        (".5", 0.5),
        ("\\frac{1}{3}", 0.33),
        ("$\\dfrac{9}{4}$", 2.25),
        ("4\\sqrt{3}", 6.93),
        ("\\sqrt[3]{8}", 2.0),
        ("2\\pi+3", 9.28),
        ("2^{10}", 1024),
        ("2^10", 1024),
        ("-2^2", -4),
        ("--3", 3),
        ("5!", 120),
        ("3\\binom{4}{2}", 18),
        ("\\log_2 8", 3.0),
        ("\\log 100", 2.0),
        ("\\sin(30)", -0.99),  # radians
        ("e^2", 7.39),
        ("2\\%", 0.02),
        ("2/3\\pi", 0.21),  # 2 / (3 pi)
        # the rule's oddities
        ("6\\frac{1}{4}", 1.5),
        ("37 25/27", 34.26),
        ("2:3", 0.67),
        ("9\\,604", 5436),
        ("4\\sqrt{2}}.theansweris:4\\sqrt{2", 5.66),
        ("4210_7", 4210),
        ("2triangles", 2),
        ("222.22,227.78", 50617.27),
        ("5'", 5),
        ("5' 4", 20),
        ("\\{15,600\\}", 15600),
        ("50\\%\\frac{1}{2}", 0.25),
        ("\\sqrt{3}\\end{pmatrix}", 1.73),
    ],
)
def test_numbers(text, expected):
    assert rounded(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    ["", "x", "2x", "5\\mathrm{cm}", "1,2", "[1,2]", "(1,2)", "\\sqrt3", "\\frac12", "7/0", "50%",
     "10^\\circ", "2=2", "\\infty", "a+b", "e", "2+", "()", "\\sqrt{-1}", "__import__('os')",
     "1980's", "\\frac{1}{2}\\%", "(2+3)\\%", "\\{1,2\\}", "5\\end{cases}", "10^{400}", "300!",
     "9" * 399, "2^{5000}", "1,2,3,4,5", "9" * 5000, "(" * 3000, "-" * 1900, "2^{2^{2^{2^{49}}}}",
     "99999!"],
)  # fmt: skip
def test_what_is_no_number_is_none_and_quick(text):
    start = time.perf_counter()
    assert value(text) is None
    assert time.perf_counter() - start < 0.2


def test_no_rounding_before_it_is_asked():
    assert value("\\pi") == math.pi
    assert rounded("\\pi") == 3.14
