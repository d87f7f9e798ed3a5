"""What dresses an answer without changing it."""

import pytest
from verdicts import fast


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("5", "**5**", True),
        ("5", "__5__", True),
        ("5", "`5`", True),
        ("5", r"\color{red}{5}", True),
        ("5", r"{\color{red} 5}", True),
        ("5", r"\textcolor{blue}{5}", True),
        ("5", r"\colorbox{yellow}{5}", True),
        ("6", r"\textcolor{red}{5}", False),
        ("5", r"\hspace{1em}5", True),
        ("5", r"5 \checkmark", True),
        ("5", "5 ✓", True),
        ("5", r"5\,\blacksquare", True),
        ("5", "5\\\\", True),
        ("5", "5\\", True),
        ("5", '"5"', True),
        ("5", r"\begin{array}{c}5\end{array}", True),
        ("5", r"\begin{aligned} x &= 5 \end{aligned}", True),
        ("5", r"\begin{align*} x &= 5 \end{align*}", True),
        ("5", r"\tag{1} 5", True),
        ("5", "<b>5</b>", True),
        ("5", r"\emph{5}", True),
        ("5", r"\underline{5}", True),
        ("5", r"\mathbf{5}", True),
        ("5", r"\bf 5", True),
        ("5", r"{\bf 5}", True),
        ("5", r"\Large 5", True),
        ("5", r"\boxed{5}", True),
        ("5", "$5", True),
        ("5", "5$", True),
        ("5", r"\(5", True),
        ("24", "2*3*4", True),
        ("x < 5", "x &lt; 5", True),
        ("(1,2,3)", r"\langle 1,2,3 \rangle", True),
        ("(1,2,3)", r"\hat{i}+2\hat{j}+3\hat{k}", True),
        ("(1,2)", r"\hat{i}-2\hat{j}", False),
    ],
)
def test_decoration(gold, answer, equal):
    assert fast(gold, answer) is equal
