"""Matrices and vectors in other dress."""

import pytest
from verdicts import fast


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (r"\langle 1,2 \rangle", "(1,2)", True),
        (r"\langle 1,2 \rangle", "(2,1)", False),
        (r"\langle 1,2 \rangle", "<1,2>", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\cr3&4\end{pmatrix}", True),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            r"\begin{pmatrix}1&2\\[2pt]3&4\end{pmatrix}",
            True,
        ),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[4,3]]", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "((1,2),(3,4))", True),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            r"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            True,
        ),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "[1,2]", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\langle 1,2\rangle", True),
        (r"\begin{pmatrix}1\\2\\3\end{pmatrix}", "[1;2;3]", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\hat{i}+2\hat{j}", True),
        (r"3\hat{i}-2\hat{j}", "(3,-2)", True),
        (r"3\hat{i}-2\hat{j}", r"3\mathbf{i} - 2\mathbf{j}", True),
        (r"3\hat{i}-2\hat{j}+\hat{k}", "(3,-2,1)", True),
        (r"3\hat{i}-2\hat{j}", "3i-2j", True),
        (r"\begin{bmatrix}1&2\end{bmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", False),
        (r"\widehat{AB}", r"\widehat{BA}", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{array}{cc}1&2\\3&4\end{array}", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[1,2;3,4]", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "1,2,3,4", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "(1,2,3,4)", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)", False),
    ],
)
def test_matrices(gold, answer, equal):
    assert fast(gold, answer) is equal
