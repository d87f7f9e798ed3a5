"""The gates' values, weights and table against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sapo_vl.algorithm.gates import GATES, HALF, table


@pytest.mark.parametrize("name", GATES)
def test_gates_weight_is_their_derivative(name):
    x = torch.linspace(-1.7, 1.7, 301, dtype=torch.float64, requires_grad=True)  # inside of hard's
    gate = GATES[name]
    gate.value(x).sum().backward()
    torch.testing.assert_close(x.grad, gate.weight(x.detach()))
    assert gate.weight(torch.zeros(1)).item() == 1
    assert gate.value(torch.zeros(1)).item() == gate.at_one


def test_half_is_where_the_weight_is_a_half():
    assert abs(HALF - 1.7627) < 1e-4
    weight = GATES["sigmoid"].weight(torch.tensor([HALF, -HALF]))
    assert weight.tolist() == pytest.approx([0.5, 0.5])


def test_gates_by_hand():
    at_two = {n: g.weight(torch.ones(1)).item() for n, g in GATES.items()}
    expected = {
        "sigmoid": 1 / math.cosh(0.5) ** 2,
        "hard": 1,
        "none": 1,
    }
    assert at_two == pytest.approx(expected)
    beyond = torch.tensor([HALF + 0.01, -HALF - 0.01])
    assert GATES["hard"].weight(beyond).tolist() == [0, 0]
    assert GATES["none"].weight(beyond).tolist() == [1, 1]


def test_the_gates_table_shows_where_it_halves():
    text = table("sigmoid", 1.0)
    assert "  2.00   0.7864   1.5729" in text
    assert "halves at r = 2.763; below r = 1 it never falls under 0.786" in text
    assert "largest at r = 2.06: 1.5747" in text
    assert "halves at r = 1.441 and at r = 0.559" in table("sigmoid", 4.0)
    assert "1 at every ratio" in table("none", 1.0)
