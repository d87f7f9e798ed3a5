"""Figures named by their points: which orders of the letters are the same."""

import pytest
from verdicts import fast


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (r"\angle ABC", r"\angle CBA", True),
        (r"\angle ABC", r"\angle BAC", False),
        (r"\angle ABC", "∠ABC", True),
        (r"\angle ABC", "angle ABC", True),
        (r"\angle ABC", "ABC", True),
        (r"\angle ABC", r"\triangle ABC", False),
        (r"\triangle ABC", r"\triangle BCA", True),
        (r"\triangle ABC", r"\triangle ABD", False),
        (r"\triangle ABC \cong \triangle DEF", r"\triangle BCA \cong \triangle EFD", True),
        (r"\triangle ABC \cong \triangle DEF", r"\triangle ABC \cong \triangle EDF", False),
        (r"\triangle ABC \sim \triangle DEF", r"\triangle DEF \sim \triangle ABC", True),
        ("AB", "BA", True),
        (r"\overline{AB}", "BA", True),
        (r"\vec{AB}", r"\vec{BA}", False),
        (r"\overrightarrow{AB}", r"\overrightarrow{BA}", False),
        (r"\overrightarrow{AB}", r"\vec{AB}", True),
        (r"AB \parallel CD", r"CD \parallel AB", True),
        (r"AB \parallel CD", r"BA \parallel DC", True),
        (r"AB \parallel CD", r"AC \parallel BD", False),
        (r"AB \perp CD", r"AB \parallel CD", False),
        (r"AB \perp CD", "CD ⊥ AB", True),
        ("AB // CD", r"AB \parallel CD", True),
        (r"\frac{AB}{CD} = \frac{1}{2}", r"\frac{1}{2}", True),
        (r"\frac{AB}{CD} = \frac{1}{2}", "2", False),
        (r"\angle A", "A", True),
        (r"\angle A = 30^\circ", "30", True),
        (r"\angle ABC = 30^\circ", r"\angle CBA = 30^\circ", True),
        (r"\angle ABC = 30^\circ", r"\angle ACB = 30^\circ", False),
        ("quadrilateral ABCD", "quadrilateral BCDA", True),
        ("quadrilateral ABCD", "quadrilateral ACBD", False),
        (r"\triangle ABC", r"\triangle CBA", True),
        (r"\angle B", r"\angle C", False),
        (r"\overline{AB}", r"\overline{AC}", False),
        (r"\angle BAC", r"\angle CAB", True),
        ("ray AB", "ray BA", False),
        ("line AB", "line BA", True),
        (r"\overrightarrow{AB}", "AB", True),
        ("ABCD", "ABDC", False),
        (r"AC \perp BD", r"BD \perp AC", True),
        (r"l \parallel m", r"m \parallel l", True),
        (r"l \parallel m", r"l \perp m", False),
        ("AB = AC", "AB = BC", False),
        ("S_{ABC} = 10", "10", True),
    ],
)
def test_geometry(gold, answer, equal):
    assert fast(gold, answer) is equal
