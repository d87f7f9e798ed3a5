"""The KL penalty: k3 and its gradient by hand, and against the KL of whole distributions."""

from __future__ import annotations

import math

import pytest
import torch

from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.kl import RATIO_LIMIT, k3, penalized, token_penalty
from sapo_vl.algorithm.objectives import OBJECTIVES
from sapo_vl.algorithm.surrogate import LossInputs, concatenate
from sapo_vl.config import load

V = 7


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def inputs(logprobs, old, reference, weights=None) -> LossInputs:
    count = len(logprobs)
    weights = torch.ones(count) if weights is None else weights
    lengths_R = torch.tensor([count])
    return LossInputs(logprobs, old, torch.zeros(count), weights, lengths_R, reference)


def test_k3_by_hand():
    """Of d = ln 2: 2 - ln 2 - 1 = 0.306853. Of d = -ln 2: 0.5 + ln 2 - 1 = 0.193147."""
    logprobs = tensor(math.log(0.2), math.log(0.4), math.log(0.3))
    reference = tensor(math.log(0.4), math.log(0.2), math.log(0.3))
    assert k3(logprobs, reference).tolist() == pytest.approx([0.306853, 0.193147, 0.0], abs=1e-6)


def test_k3_of_small_differences_and_of_extremes():
    small = k3(tensor(-1.0), tensor(-1.0 + 2**-10))  # d^2 / 2 = 2^-21; exp(d) - 1 alone loses it
    assert small.item() == pytest.approx(2**-21, rel=1e-3)
    extreme = k3(tensor(-1e4, 0.0), tensor(0.0, -1e4))
    assert extreme.tolist() == pytest.approx([math.exp(20) - 21, math.exp(-20) + 19])


def test_the_penalty_and_its_slope_by_hand():
    """The ratio r scales both; the slope is r times the log of pi_theta over the reference's."""
    logprobs = tensor(math.log(0.2), math.log(0.4))
    old = tensor(math.log(0.4), math.log(0.2))  # r = 0.5 and 2
    reference = tensor(math.log(0.4), math.log(0.2))
    kl_T, slope_T = token_penalty(inputs(logprobs, old, reference), reference)
    assert kl_T.tolist() == pytest.approx([0.5 * 0.306853, 2 * 0.193147], abs=1e-6)
    assert slope_T.tolist() == pytest.approx([-0.5 * math.log(2), 2 * math.log(2)], abs=1e-6)
    far = token_penalty(inputs(tensor(-1.0), tensor(-9.0), tensor(-3.0)), tensor(-3.0))
    assert far.slope_T.item() == pytest.approx(RATIO_LIMIT * 2)  # r would be e^8


def distributions(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits of pi_theta, which need a gradient, of pi_old and of the reference."""
    random = torch.Generator().manual_seed(seed)
    theta, old, reference = (torch.randn(V, generator=random) for _ in range(3))
    return theta.requires_grad_(), old, reference


@pytest.mark.parametrize("seed", range(5))
def test_the_expected_gradient_is_that_of_the_full_distributions_k3_and_of_the_kl(seed):
    """Each token of the vocabulary, weighted by how often pi_old samples it.

    Against autograd in float64 of sum of pi_old * r * k3, and of KL(pi_theta || reference) itself.
    """
    theta, old, reference = distributions(seed)
    old_V, reference_V = old.log_softmax(-1), reference.log_softmax(-1)

    def nothing(inputs: LossInputs):
        loss = objectives.build(load(None, [])).loss(inputs)
        assert loss.loss.item() == 0  # the advantages are 0
        return loss

    tokens = inputs(theta.log_softmax(-1), old_V, reference_V, weights=old_V.exp())
    total = penalized(nothing, 0.25)(tokens)
    (found,) = torch.autograd.grad(total.loss, theta)
    exact = theta.detach().double().requires_grad_()
    p, q, mu = (x.double().log_softmax(-1) for x in (exact, reference, old))
    full = (mu.exp() * (p - mu).exp() * ((q - p).exp() - (q - p) - 1)).sum()
    kl = (p.exp() * (p - q)).sum()
    for expected in (full, kl):
        (gradient,) = torch.autograd.grad(expected, exact, retain_graph=True)
        torch.testing.assert_close(found.double(), 0.25 * gradient, atol=1e-6, rtol=1e-5)
        assert total.penalty.item() == pytest.approx(0.25 * expected.item(), rel=1e-5)
    other = (q.exp() * (q - p)).sum()  # the other direction has another gradient
    (gradient,) = torch.autograd.grad(other, exact)
    assert float((found - 0.25 * gradient).abs().max()) > 1e-2


def test_autograd_agrees_token_by_token():
    """The written slope is the derivative of r * k3, in float64 without limits."""
    torch.manual_seed(1)
    logprobs, old, reference = torch.randn(3, 50).double() - 3
    logprobs.requires_grad_()
    d = reference - logprobs
    ((logprobs - old).exp() * (d.exp() - d - 1)).sum().backward()
    slope_T = token_penalty(inputs(logprobs, old, reference), reference).slope_T
    inside = (logprobs - old).exp() < RATIO_LIMIT
    assert inside.sum() > 40
    torch.testing.assert_close(
        slope_T[inside].double(), logprobs.grad[inside], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_it_with_its_own_weights(name):
    """The loss grows by kl_coef * sum of weight * r * k3, the gradient by its slope."""
    torch.manual_seed(0)
    logprobs, old, reference = torch.randn(3, 6) * 0.1 - 2
    weights, lengths_R = torch.rand(6), torch.tensor([4, 2])

    def run(kl_coef: float):
        objective = objectives.build(
            load(None, [f"objective={name}", f"algorithm.kl_coef={kl_coef}"])
        )
        own = logprobs.clone().requires_grad_()
        result = objective.loss(
            LossInputs(own, old, torch.randn(6).sign(), weights, lengths_R, reference)
        )
        result.loss.backward()
        return result, own.grad

    torch.manual_seed(3)
    plain, gradient = run(0)
    torch.manual_seed(3)
    with_kl, penalized_gradient = run(0.5)
    assert plain.penalty is None
    kl_T, slope_T = token_penalty(inputs(logprobs, old, reference), reference)
    expected = 0.5 * (weights * kl_T).sum()
    torch.testing.assert_close(with_kl.penalty, expected)
    torch.testing.assert_close(with_kl.loss.detach(), plain.loss.detach() + expected)
    torch.testing.assert_close(penalized_gradient, gradient + 0.5 * weights * slope_T)
    torch.testing.assert_close(with_kl.reference_kl_T, kl_T)
    torch.testing.assert_close(with_kl.gate_weight_T, plain.gate_weight_T)


def test_without_a_coefficient_it_is_the_objectives_own_function():
    def loss(inputs: LossInputs):
        raise AssertionError

    assert penalized(loss, 0) is loss


def test_a_rollout_without_the_reference_is_our_mistake_and_a_filler_is_none():
    objective = objectives.build(load(None, ["algorithm.kl_coef=0.1"]))
    one = tensor(-1.0)
    filler = inputs(one, one, None, weights=tensor(0.0))
    assert objective.loss(filler).penalty is None
    with pytest.raises(AssertionError, match="reference"):
        objective.loss(inputs(one, one, None))


def test_chunks_join():
    objective = objectives.build(load(None, ["algorithm.kl_coef=0.1"]))
    torch.manual_seed(2)
    logprobs, old, reference = torch.randn(3, 5)
    whole = objective.loss(inputs(logprobs, old, reference))
    parts = [
        objective.loss(inputs(logprobs[c], old[c], reference[c]))
        for c in (slice(0, 2), slice(2, 5))
    ]
    joined = concatenate(parts)
    torch.testing.assert_close(joined.penalty, whole.penalty)
    torch.testing.assert_close(joined.loss, whole.loss)
    assert torch.equal(joined.reference_kl_T, whole.reference_kl_T)
