"""The gate and the loss against numbers computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.algorithm.gates import GATES
from sapo_vl.algorithm.sapo import Options, gate, gate_weight, loss
from sapo_vl.algorithm.surrogate import LOG_RATIO_LIMIT, LossInputs, Surrogate


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def surrogate(logprobs, old, advantages, weights, **options) -> Surrogate:
    lengths_R = torch.tensor([len(logprobs)])
    return loss(LossInputs(logprobs, old, advantages, weights, lengths_R), Options(**options))


def loss_and_gradient(logprobs, old, advantages, weights, **options):
    """Return the surrogate and d loss / d logprobs; the options' defaults are the paper's."""
    logprobs = logprobs.clone().requires_grad_()
    out = surrogate(logprobs, old, advantages, weights, **options)
    out.loss.backward()
    return out, logprobs.grad


def test_the_defaults_are_the_papers():
    assert Options().model_dump() == {"tau_pos": 1.0, "tau_neg": 1.05, "gate": "sigmoid"}


@pytest.mark.parametrize(
    ("ratio", "weight"),
    [(1.0, 1.0), (2.0, 0.786448), (0.0, 0.786448), (3.0, 0.419974), (5.0, 0.070651)],
)
def test_gate_weight_at_tau_one(ratio, weight):
    assert gate_weight(tensor(ratio), 1.0).item() == pytest.approx(weight, abs=1e-6)


def test_gate_weight_at_another_temperature():
    # sech^2(1.05/2 * (3 - 1)) = 1/cosh(1.05)^2
    assert gate_weight(tensor(3.0), 1.05).item() == pytest.approx(
        1 / math.cosh(1.05) ** 2, abs=1e-6
    )


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.05, 3.0])
def test_gate_at_one_is_two_over_tau(tau):
    assert gate(tensor(1.0), tau).item() == pytest.approx(2 / tau, rel=1e-6)


def test_gate_values_at_tau_one():
    # 4 * sigmoid(1) and 4 * sigmoid(-1)
    assert gate(tensor(2.0, 0.0), 1.0).tolist() == pytest.approx([2.924234, 1.075766], abs=1e-6)


def test_the_coefficient_peaks_at_ratio_2_06():
    ratio = torch.linspace(0, 10, 100_001, dtype=torch.float64)
    coefficient = gate_weight(ratio, 1.0) * ratio
    best = int(coefficient.argmax())
    assert coefficient[best].item() == pytest.approx(1.5747, abs=5e-5)
    assert ratio[best].item() == pytest.approx(2.06, abs=0.01)


def test_loss_by_hand():
    # r = 2 with A = 1 (tau 1): f = 2.924234; r = 1 with A = -2 (tau 1.05): f = 2/1.05.
    old = tensor(-1.0, -2.0)
    logprobs = old + tensor(math.log(2), 0.0)
    out, _ = loss_and_gradient(logprobs, old, tensor(1.0, -2.0), tensor(0.5, 0.25))
    assert out.loss.item() == pytest.approx(-(0.5 * 2.924234 - 0.25 * 2 * 2 / 1.05), abs=1e-5)
    # f - f(1) is 0.924234 for the first and 0 for the second
    assert out.loss_centered.item() == pytest.approx(0.5 * 0.924234, abs=1e-5)
    assert out.gate_weight_T.tolist() == pytest.approx([0.786448, 1.0], abs=1e-5)
    assert out.log_ratio_T.tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)


def test_gradient_is_weight_times_ratio_times_advantage():
    random = np.random.default_rng(0)
    log_ratio = random.normal(0, 1, 200)
    advantage = random.normal(0, 1, 200)
    weight = random.uniform(0.1, 1, 200)
    old = random.normal(-3, 1, 200)
    _, gradient = loss_and_gradient(
        *(tensor(*v) for v in (old + log_ratio, old, advantage, weight))
    )
    ratio = np.exp(log_ratio)
    tau = np.where(advantage > 0, 1.0, 1.05)
    expected = -weight * advantage * ratio / np.cosh(tau / 2 * (ratio - 1)) ** 2
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=2e-4, atol=2e-6)


def test_a_higher_negative_temperature_damps_negative_tokens_alone():
    old, advantages, weights = tensor(-1.0, -1.0), tensor(1.0, -1.0), tensor(1.0, 1.0)
    for shift in (math.log(2), math.log(0.5)):
        _, even = loss_and_gradient(old + shift, old, advantages, weights, tau_neg=1.0)
        _, damped = loss_and_gradient(old + shift, old, advantages, weights, tau_neg=2.0)
        assert damped[0] == even[0]
        assert abs(damped[1]) < 0.95 * abs(even[1])
    assert even[0].item() == pytest.approx(-even[1].item(), rel=1e-6)


def test_on_policy_gradient_is_reinforce_exactly():
    random = np.random.default_rng(1)
    old = tensor(*random.normal(-2, 1, 100))
    advantages = tensor(*random.normal(0, 1, 100))
    weights = torch.full((100,), 0.01)
    _, gradient = loss_and_gradient(old, old, advantages, weights, tau_neg=1.0)
    reinforce = old.clone().requires_grad_()
    (-(weights * advantages * reinforce).sum()).backward()
    assert torch.equal(gradient, reinforce.grad)
    _, any_tau = loss_and_gradient(old, old, advantages, weights, tau_pos=0.7, tau_neg=1.3)
    torch.testing.assert_close(any_tau, reinforce.grad, rtol=1e-6, atol=0)


def test_centered_surrogate_is_zero_on_policy_though_the_loss_is_not():
    old = tensor(-1.0, -2.0, -3.0)
    out, _ = loss_and_gradient(old, old, tensor(1.0, -1.0, 0.5), torch.ones(3))
    assert out.loss_centered.item() == pytest.approx(0.0, abs=1e-6)
    assert out.loss.item() == pytest.approx(-(2 - 2 / 1.05 + 1), abs=1e-6)


@pytest.mark.parametrize("shift", [1e4, -1e4, 100.0, -100.0, 20.5, -20.5])
def test_extreme_ratios_are_finite_with_zero_gradient(shift):
    old = tensor(-1.0, -1.0)
    out, gradient = loss_and_gradient(old + shift, old, tensor(1.0, -1.0), torch.ones(2))
    assert torch.isfinite(out.loss)
    assert torch.isfinite(out.gate_weight_T).all()
    assert gradient.tolist() == [0.0, 0.0]
    assert out.clamped.item() == 2
    assert out.log_ratio_T.tolist() == pytest.approx([shift, shift])


def test_at_the_limit_a_large_ratio_has_weight_zero():
    old = tensor(-30.0)
    out, gradient = loss_and_gradient(old + LOG_RATIO_LIMIT, old, tensor(1.0), tensor(1.0))
    assert out.gate_weight_T.item() == 0.0
    assert gradient.item() == 0.0
    assert out.clamped.item() == 0


def test_clamp_count():
    old = torch.zeros(5)
    logprobs = tensor(0.0, 19.9, 20.1, -21.0, -3.0)
    out, _ = loss_and_gradient(logprobs, old, torch.ones(5), torch.ones(5))
    assert out.clamped.item() == 2


@pytest.mark.parametrize("length", [0, 3])
def test_an_empty_mask_gives_zero_with_a_graph(length):
    logprobs = torch.full((length,), -1.0, requires_grad=True)
    zeros = torch.zeros(length)
    out = surrogate(logprobs, logprobs.detach() - 1, zeros + 1, zeros)
    assert out.loss.item() == 0.0
    out.loss.backward()
    assert logprobs.grad.tolist() == [0.0] * length


def test_a_token_without_advantage_gives_no_gradient():
    _, gradient = loss_and_gradient(tensor(-1.0), tensor(-2.0), tensor(0.0), tensor(1.0))
    assert gradient.item() == 0.0


def test_half_precision_logprobs_are_lifted_to_float32():
    logprobs = torch.tensor([-1.0], dtype=torch.bfloat16, requires_grad=True)
    out = surrogate(logprobs, tensor(-1.001), tensor(1.0), tensor(1.0))
    assert out.loss.dtype is torch.float32
    assert out.log_ratio_T.item() == pytest.approx(0.001, rel=1e-3)


@st.composite
def grouped_responses(draw):
    lengths = draw(st.lists(st.integers(1, 12), min_size=2, max_size=10))
    order = draw(st.permutations(range(len(lengths))))
    cuts = draw(st.sets(st.integers(1, len(lengths) - 1)))
    edges = [0, *sorted(cuts), len(lengths)]
    parts = [order[a:b] for a, b in itertools.pairwise(edges)]
    return lengths, parts, draw(st.integers(0, 1000))


@given(grouped_responses())
def test_aggregation_does_not_depend_on_micro_batches(case):
    lengths, parts, seed = case
    random = np.random.default_rng(seed)
    responses = []
    for length in lengths:
        old = random.normal(-2, 1, length)
        responses.append((old + random.normal(0, 0.5, length), old, random.normal()))

    def run(groups):
        total, gradients = 0.0, [None] * len(responses)
        for group in groups:
            rows = [responses[i] for i in group]
            logprobs = tensor(*np.concatenate([r[0] for r in rows]))
            old = tensor(*np.concatenate([r[1] for r in rows]))
            sizes = [lengths[i] for i in group]
            advantages = tensor(*np.repeat([r[2] for r in rows], sizes))
            weights = tensor(*np.repeat([1 / (n * len(lengths)) for n in sizes], sizes))
            out, gradient = loss_and_gradient(logprobs, old, advantages, weights)
            total += out.loss.item()
            for i, piece in zip(group, gradient.split(sizes), strict=True):
                gradients[i] = piece
        return total, torch.cat(gradients)

    whole, spread = run([range(len(lengths))]), run(parts)
    assert spread[0] == pytest.approx(whole[0], rel=1e-5, abs=1e-6)
    torch.testing.assert_close(spread[1], whole[1], rtol=1e-6, atol=1e-9)
    # and it is the mean over responses of means over their tokens
    by_hand = -np.mean(
        [
            np.mean(4 / t / (1 + np.exp(-t * (np.exp(new - old) - 1)))) * a
            for new, old, a in responses
            for t in [1.0 if a > 0 else 1.05]
        ]
    )
    assert whole[0] == pytest.approx(by_hand, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", GATES)
def test_any_gate_in_sapo(name):
    logprobs = tensor(math.log(1.5), math.log(0.6)).requires_grad_()
    out = surrogate(
        logprobs, tensor(0, 0), tensor(1, -1), tensor(0.5, 0.5), tau_pos=1, tau_neg=2, gate=name
    )
    out.loss.backward()
    weight = GATES[name].weight(tensor(0.5, 2 * -0.4))
    torch.testing.assert_close(out.gate_weight_T, weight)
    torch.testing.assert_close(out.grad_coefficient_T, weight * tensor(1.5, 0.6))
    torch.testing.assert_close(
        logprobs.grad, -0.5 * tensor(1, -1) * weight * tensor(1.5, 0.6), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("options", [{"tau_pos": 0}, {"tau_neg": -1}, {"gate": "erf"}])
def test_wrong_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        Options(**options)
