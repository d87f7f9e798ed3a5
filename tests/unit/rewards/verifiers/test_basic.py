"""Box extraction, exact numbers and three simple verifiers, with values computed by hand."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.rewards import VERIFIERS
from sapo_vl.rewards.parsing.extract import last_box
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.parsing.rationals import to_fraction
from sapo_vl.rewards.verifiers import boxed, format, random_control
from sapo_vl.schema import Outcome, Sample


def sample(answer, answer_type="number", **more):
    return Sample("t-1", "test", "t", "?", (), answer, answer_type=answer_type, **more)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{8}", "8"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        ("\\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}</think> two", None),
        (r"<think>\boxed{1}", None),
        (r"\boxed{8} wait \boxed{9", None),
        (r"\boxed{8} wait \boxed{ }", None),
        (r"\boxed 8", "8"),
        (r"\boxed8.", "8"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"write it in \boxed as usual", None),
        (r"\boxed{8} wait \boxed", None),
        ("\boxed{7}", "7"),
        ("8", None),
        ("", None),
    ],
)
def test_last_box(response, answer):
    assert last_box(response).answer == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", Fraction(8)),
        ("-0.50", Fraction(-1, 2)),
        ("1,234.5", Fraction(2469, 2)),
        ("12,34", None),
        ("3e-2", Fraction(3, 100)),
        ("1.2 \\times 10^3", Fraction(1200)),
        ("1/3", Fraction(1, 3)),
        ("1/0", None),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"$\dfrac{3}{4}$", Fraction(3, 4)),
        ("３", Fraction(3)),
        ("−3", Fraction(-3)),
        ("x", None),
        (".", None),
        ("", None),
        ("1" * 4000, Fraction(int("1" * 4000))),
    ],
)
def test_numbers_are_exact(text, value):
    assert to_fraction(clean(text)) == value


@pytest.mark.parametrize(
    ("gold", "answer_type", "answer", "right"),
    [
        ("8", "number", "8.0", True),
        ("0.5", "number", r"\frac{1}{2}", True),
        ("1/3", "number", "0.3333333333333333", True),
        ("1/3", "number", "0.33333333", False),
        ("B", "choice", "(b)", True),
        ("B", "choice", r"\text{B}", True),
        ("B", "choice", "A", False),
        ("Red Cube", "text", "red  cube.", True),
        ("red", "text", "green", False),
        ("8", "number", r"\boxed{", False),
    ],
)
def test_boxed(gold, answer_type, answer, right):
    verdict = boxed.score(sample(gold, answer_type), f"\\boxed{{{answer}}}")
    assert verdict.outcome is (Outcome.CORRECT if right else Outcome.WRONG)
    assert verdict.score == float(right)


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (r"<think>hm</think> \boxed{1}", 1),
        (r"hm</think> \boxed{1}", 1),
        (r"\boxed{1}", 1),
        (r"<think>\boxed{1}</think> \boxed{1}", 1),
        (r"<think>hm \boxed{1}", 0),
        (r"<think></think><think></think>\boxed{1}", 0),
        (r"hello <think>hm</think> \boxed{1}", 0),
        (r"<think>hm</think> \boxed{1} \boxed{1}", 0),
        (r"<think>hm</think> \boxed{}", 0),
        (r"<think>hm</think> 1", 0),
        ("", 0),
        ("<think>so</think>\\boxed{<|im_start|>}", 0.0),  # nothing but a special token
        ("<think>so</think>\\boxed{<|im_start|> 2}", 1.0),
    ],
)
def test_format(response, value):
    assert format.score(sample("1"), response).score == value


def test_random_is_fair_and_repeatable():
    verdicts = [random_control.score(sample("1"), f"response {i}") for i in range(2000)]
    assert verdicts == [random_control.score(sample("1"), f"response {i}") for i in range(2000)]
    right = sum(v.outcome is Outcome.CORRECT for v in verdicts)
    assert 900 < right < 1100  # 2000 fair draws: sd 22
    assert (
        random_control.score(sample("1"), "a", seed=1).score
        != random_control.score(sample("1"), "a").score
    )


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_nothing_written_by_a_model_raises(text):
    for response in (
        text,
        f"\\boxed{{{text}",
        f"\\boxed{{{text}}}",
        f"<think>{text}</think>{text}",
    ):
        for kind in ("number", "choice", "text"):
            verdict = boxed.score(
                sample("B" if kind == "choice" else "unlikely gold", kind), response
            )
            assert verdict.outcome in (Outcome.CORRECT, Outcome.WRONG)
        assert format.score(sample("1"), response).score in (0.0, 1.0)
        assert 0 <= random_control.score(sample("1"), response).score < 1


@settings(deadline=None)
@given(st.text(alphabet="ab{}\\ boxed", max_size=60))
def test_a_box_keeps_what_balanced_braces_hold(inner):
    found = last_box(f"\\boxed{{{inner}}}").answer
    assert found is None or found in inner


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, sapo_vl.rewards, sapo_vl.rewards.rubric;"
        "print([m for m in ('torch', 'sympy', 'vllm', 'numpy', 'openai') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
    assert set(VERIFIERS) >= {"boxed", "format", "random"}
