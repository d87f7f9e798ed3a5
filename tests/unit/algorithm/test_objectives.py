"""Every objective against numbers computed by hand, through one signature."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.gates import GATES, HALF, table
from sapo_vl.algorithm.objectives import OBJECTIVES
from sapo_vl.algorithm.sapo import sapo_loss
from sapo_vl.config import load
from sapo_vl.errors import ConfigError
from sapo_vl.learner.engine import RowTensors
from sapo_vl.learner.logprobs import ResponseLogprobs

RATIOS = (1.5, 1.0, 0.5, 1.1)  # of two responses with three tokens and one
ADVANTAGES = (2.0, 2.0, 2.0, -1.0)
WEIGHTS = (1 / 6, 1 / 6, 1 / 6, 1 / 2)  # mean of means over two responses
LENGTHS = torch.tensor([3, 1])


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def run(name, ratios=RATIOS, advantages=ADVANTAGES, weights=WEIGHTS, lengths=LENGTHS, **numbers):
    """Return the surrogate and d loss / d logprobs."""
    kind = OBJECTIVES[name]
    if kind.clip and not numbers:
        numbers = {"low": kind.clip[0], "high": kind.clip[1]}
    old = tensor(*(-1.0 for _ in ratios))
    logprobs = (old + tensor(*ratios).log()).requires_grad_()
    out = kind.loss(logprobs, old, tensor(*advantages), tensor(*weights), lengths, **numbers)
    out.loss.backward()
    return out, logprobs.grad.tolist()


def test_grpo_by_hand():
    out, grad = run("grpo")
    # 1.5 is above 1.27 with A > 0: clipped; 0.5 is below 0.8 but lowers the objective: kept
    assert out.loss.item() == pytest.approx(-((1.27 + 1.0 + 0.5) * 2 / 6 - 1.1 / 2), abs=1e-6)
    assert grad == pytest.approx([0, -2 / 6, -0.5 * 2 / 6, 1.1 / 2], abs=1e-6)
    assert out.gate_weight_T.tolist() == [0, 1, 1, 1]
    assert out.coefficient_T.tolist() == pytest.approx([0, 1, 0.5, 1.1])
    # 0.27 over 1 where it is clipped, 0, -0.5; and 0.1 over with A = -1
    assert out.centred.item() == pytest.approx((0.27 - 0.5) * 2 / 6 - 0.1 / 2, abs=1e-6)


def test_grpo_drops_a_negative_token_below_its_bound():
    _, grad = run("grpo", (0.79, 0.81), (-1.0, -1.0), (0.5, 0.5), torch.tensor([2]))
    assert grad == pytest.approx([0, 0.81 / 2], abs=1e-6)


def test_dapo_has_a_higher_upper_bound():
    numbers = objectives.numbers(load(None, ["objective=dapo"]))
    assert numbers == {"low": 0.2, "high": 0.28}
    _, grad = run("dapo", (1.275,), (1.0,), (1.0,), torch.tensor([1]))
    assert grad == pytest.approx([-1.275])
    assert run("grpo", (1.275,), (1.0,), (1.0,), torch.tensor([1]))[1] == [0]


def test_dr_grpo_clips_at_both_sides_alike():
    assert OBJECTIVES["dr_grpo"].clip == (0.2, 0.2)
    _, grad = run("dr_grpo", (1.19, 1.21), (1.0, 1.0), (0.5, 0.5), torch.tensor([2]))
    assert grad == pytest.approx([-1.19 / 2, 0], abs=1e-6)


def test_gspo_by_hand():
    # s of the first is (1.5 * 1 * 0.5)^(1/3) = 0.9086: with A > 0 it lowers the objective and is
    # kept. The second's, 1.1, raises |A| with A < 0: min(s A, clip(s) A) is the unclipped one.
    s = 0.75 ** (1 / 3)
    out, grad = run("gspo")
    assert out.loss.item() == pytest.approx(-(s * 2 / 2 - 1.1 / 2), abs=1e-6)
    assert grad == pytest.approx([-s * 2 / 6] * 3 + [1.1 / 2], abs=1e-6)
    # With A's of the other sign both are clipped, whole responses at once.
    out, grad = run("gspo", advantages=(-2.0, -2.0, -2.0, 1.0))
    assert grad == [0, 0, 0, 0]
    assert out.loss.item() == pytest.approx((1 - 3e-4) * 2 / 2 - (1 + 4e-4) / 2, abs=1e-6)
    assert out.gate_weight_T.tolist() == [0, 0, 0, 0]


def test_gspo_stays_finite_far_from_the_old_policy():
    old = tensor(-1.0, -1.0)
    logprobs = tensor(-200.0, -300.0).requires_grad_()
    out = OBJECTIVES["gspo"].loss(
        logprobs, old, tensor(1.0, 1.0), tensor(0.5, 0.5), torch.tensor([2]), low=0.1, high=0.1
    )
    out.loss.backward()
    assert math.isfinite(out.loss.item())
    assert out.clamped.item() == 2
    assert torch.isfinite(logprobs.grad).all()


def test_cispo_keeps_every_token():
    out, grad = run("cispo", (6.0, 1.0, 0.01, 1.1))
    # the ratio is a constant: 6 is cut to 5, nothing else is
    assert grad == pytest.approx([-5 * 2 / 6, -2 / 6, -0.01 * 2 / 6, 1.1 / 2], abs=1e-5)
    expected = 2 / 6 * (5 * math.log(6) + 0.01 * math.log(0.01)) - 1.1 / 2 * math.log(1.1)
    assert out.loss.item() == pytest.approx(-expected, abs=1e-5)
    assert out.gate_weight_T.tolist() == [0, 1, 1, 1]


def test_sapo_through_the_same_door():
    _, grad = run("sapo", tau_pos=1.0, tau_neg=1.05, gate="sigmoid")
    weight = 1 / math.cosh(0.25) ** 2  # at 1.5 and at 0.5
    last = 1.1 / math.cosh(1.05 / 2 * 0.1) ** 2
    expected = [-weight * 1.5 * 2 / 6, -2 / 6, -weight * 0.5 * 2 / 6, last / 2]
    assert grad == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(
    advantages=st.lists(st.floats(-3, 3).filter(lambda a: abs(a) > 0.01), min_size=1, max_size=6)
)
def test_on_policy_every_objective_has_the_gradient_of_reinforce(name, advantages):
    """With one update per batch there is nothing to compare: r is 1."""
    numbers = {"tau_pos": 1.0, "tau_neg": 1.05} if name == "sapo" else {}
    count = len(advantages)
    out, grad = run(
        name,
        (1.0,) * count,
        advantages,
        (1 / count,) * count,
        torch.ones(count, dtype=int),
        **numbers,
    )
    assert grad == pytest.approx([-a / count for a in advantages], abs=1e-5)
    assert out.centred.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(
    ratios=st.lists(st.floats(0.02, 20), min_size=4, max_size=4),
    advantages=st.lists(st.floats(-3, 3), min_size=2, max_size=2),
)
def test_the_coefficient_is_what_the_gradient_has(name, ratios, advantages):
    numbers = {"tau_pos": 0.7, "tau_neg": 1.4} if name == "sapo" else {}
    spread = (advantages[0],) * 3 + (advantages[1],)
    out, grad = run(name, ratios, spread, **numbers)
    expected = -tensor(*WEIGHTS) * tensor(*spread) * out.coefficient_T
    torch.testing.assert_close(tensor(*grad), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GATES)
def test_gates_weight_is_their_derivative(name):
    x = torch.linspace(-1.7, 1.7, 301, dtype=torch.float64, requires_grad=True)  # inside of hard's
    gate = GATES[name]
    gate.value(x).sum().backward()
    torch.testing.assert_close(x.grad, gate.weight(x.detach()))
    assert gate.weight(torch.zeros(1)).item() == 1
    assert gate.value(torch.zeros(1)).item() == gate.at_one


@pytest.mark.parametrize("name", ["sigmoid", "arctan", "softsign", "erf"])
def test_gates_halve_at_one_place(name):
    assert GATES[name].weight(torch.tensor([HALF, -HALF])).tolist() == pytest.approx([0.5, 0.5])


def test_gates_by_hand():
    at_two = {n: g.weight(torch.ones(1)).item() for n, g in GATES.items()}
    expected = {
        "sigmoid": 1 / math.cosh(0.5) ** 2,
        "arctan": 1 / (1 + 1 / HALF**2),
        "softsign": 1 / (1 + (math.sqrt(2) - 1) / HALF) ** 2,
        "erf": 2 ** -(1 / HALF**2),
        "hard": 1,
        "none": 1,
    }
    assert at_two == pytest.approx(expected)
    beyond = torch.tensor([HALF + 0.01, -HALF - 0.01])
    assert GATES["hard"].weight(beyond).tolist() == [0, 0]
    assert GATES["none"].weight(beyond).tolist() == [1, 1]


@pytest.mark.parametrize("name", GATES)
def test_any_gate_in_sapo(name):
    logprobs = tensor(math.log(1.5), math.log(0.6)).requires_grad_()
    out = sapo_loss(
        logprobs, tensor(0, 0), tensor(1, -1), tensor(0.5, 0.5), tau_pos=1, tau_neg=2, gate=name
    )
    out.loss.backward()
    weight = GATES[name].weight(tensor(0.5, 2 * -0.4))
    torch.testing.assert_close(out.gate_weight_T, weight)
    torch.testing.assert_close(
        logprobs.grad, -0.5 * tensor(1, -1) * weight * tensor(1.5, 0.6), rtol=1e-5, atol=1e-6
    )


def test_the_gates_table_shows_where_it_halves():
    text = table("sigmoid", 1.0)
    assert "  2.00   0.7864   1.5729" in text
    assert "halves at r = 2.763; below r = 1 it never falls under 0.786" in text
    assert "largest at r = 2.06: 1.5747" in text
    assert "halves at r = 1.441 and at r = 0.559" in table("sigmoid", 4.0)
    assert "1 at every ratio" in table("none", 1.0)


def row(length, counts=True):
    return SimpleNamespace(token_ids=[0] * length, counts=counts)


def test_aggregations_by_hand():
    rows = [row(3), row(1)]

    def weights(aggregation):
        total = sum(aggregation.row(r) for r in rows)
        return [aggregation.token(r) / total for r in rows]

    assert weights(objectives.MEAN_OF_MEANS) == pytest.approx([1 / 6, 1 / 2])
    assert weights(objectives.TOKEN_MEAN) == pytest.approx([1 / 4, 1 / 4])
    assert weights(objectives.mean_over_limit(10)) == pytest.approx([1 / 20, 1 / 20])


@pytest.mark.parametrize(
    ("name", "token_weights", "std", "rounds"),
    [
        ("sapo", [1 / 3, 1], "group", 0),
        ("grpo", [1 / 3, 1], "group", 0),
        ("gspo", [1 / 3, 1], "group", 0),
        ("dapo", [1, 1], "group", 3),
        ("cispo", [1, 1], "group", 0),
        ("dr_grpo", [1 / 2048, 1 / 2048], "none", 0),
    ],
)
def test_what_comes_with_an_objective(name, token_weights, std, rounds):
    config = load(None, [f"objective={name}"])
    aggregation = objectives.aggregation(config)
    assert [aggregation.token(row(3)), aggregation.token(row(1))] == pytest.approx(token_weights)
    assert OBJECTIVES[name].advantage_std == std
    assert objectives.refill_rounds(config) == rounds
    assert objectives.refill_rounds(load(None, [f"objective={name}", "rollout.refill=1"])) == 1


def test_the_mismatch_correction_stands_in_front_of_any_objective():
    tensors = RowTensors(
        advantages_T=tensor(1.0),
        weights_T=tensor(1.0),
        old_logprobs_T=tensor(math.log(0.3)),
        generator_logprobs_T=tensor(math.log(0.2)),
        lengths_R=torch.tensor([1]),
    )
    for name in OBJECTIVES:
        objective = objectives.build(load(None, [f"objective={name}"]))
        logprobs = tensor(math.log(0.3)).requires_grad_()
        objective.loss(ResponseLogprobs(logprobs, tensor(0.0)), tensors).loss.backward()
        assert logprobs.grad.item() == pytest.approx(-1.5, abs=1e-5), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=gpo"], "objective='gpo'"),
        (["clip.high=0.3"], "need an objective that clips"),
        (["objective=grpo", "sapo.gate=none"], "needs objective=sapo"),
        (["objective=grpo", "clip.low=2"], "clip.low=2"),
        (["data.ratio={count: 1}", "rollout.prompts=63"], "not a multiple"),
    ],
)
def test_contradictions_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(None, overrides)


def test_bounds_can_be_set():
    config = load(None, ["objective=grpo", "clip.high=0.5"])
    assert objectives.numbers(config) == {"low": 0.2, "high": 0.5}
    assert objectives.temperatures(config) == (None, None)
    assert objectives.temperatures(load(None, [])) == (1.0, 1.05)
    assert objectives.temperatures(load(None, ["sapo.gate=erf"])) == (None, None)
