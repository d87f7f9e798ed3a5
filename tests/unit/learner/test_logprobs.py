"""Chunked log-probs: equal to the plain softmax, in values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from sapo_vl.learner import logprobs
from sapo_vl.learner.logprobs import LogprobHead, ResponseLogprobs, fused_loss, response_logprobs
from sapo_vl.model.assets import BAN_BIAS


def setup(n: int = 37, width: int = 8, vocabulary: int = 11):
    torch.manual_seed(0)
    head = LogprobHead.adopt(torch.nn.Linear(width, vocabulary, bias=False))
    hidden = torch.randn(n, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (n,))
    return head, hidden, targets


def identity(vocabulary: int) -> LogprobHead:
    """Return a head whose logits are the hidden states."""
    head = torch.nn.Linear(vocabulary, vocabulary, bias=False)
    torch.nn.init.eye_(head.weight)
    return LogprobHead.adopt(head)


def test_hand_values():
    head = identity(4)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -1e9, -1e9]])
    out = response_logprobs(head, logits, torch.tensor([2, 0]), torch.zeros(4), 1.0)
    # uniform over 4: log 1/4, entropy log 4; then 3/4 and 1/4: entropy 0.562335
    assert out.logprobs_N.tolist() == pytest.approx([-math.log(4), math.log(0.75)], abs=1e-6)
    assert out.entropy_N.tolist() == pytest.approx([1.386294, 0.562335], abs=1e-6)


def test_temperature_divides_the_logits():
    logits = torch.tensor([[2.0, 0.0]])
    out = response_logprobs(identity(2), logits, torch.tensor([0]), torch.zeros(2), 0.5)
    assert out.logprobs_N.item() == pytest.approx(-math.log1p(math.exp(-4)), abs=1e-7)


def test_a_banned_id_has_no_share():
    bias = torch.tensor([BAN_BIAS, 0.0, 0.0])
    logits = torch.tensor([[20.0, 1.0, 1.0], [20.0, 1.0, 1.0]])
    out = response_logprobs(identity(3), logits, torch.tensor([1, 0]), bias, 1.0)
    assert out.logprobs_N[0].item() == pytest.approx(-math.log(2), abs=1e-6)
    assert out.logprobs_N[1].item() < -80
    assert out.entropy_N[0].item() == pytest.approx(math.log(2), abs=1e-6)


def test_the_ban_comes_before_the_temperature():
    bias = torch.tensor([BAN_BIAS, 0.0])
    logits = torch.zeros(1, 2)
    out = response_logprobs(identity(2), logits, torch.tensor([0]), bias, 10.0)
    assert out.logprobs_N.item() == pytest.approx(-10.0, abs=1e-3)


def test_chunks_change_neither_values_nor_gradients(monkeypatch):
    head, hidden, targets = setup()
    bias = torch.zeros(11)
    bias[3] = BAN_BIAS
    outcomes = []
    for limit in (2**26, 11 * 5, 1):  # all at once, 5 rows, 1 row
        monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", limit)
        hidden.grad = head.weight.grad = None
        out = response_logprobs(head, hidden, targets, bias, 0.7)
        (out.logprobs_N * torch.linspace(-1, 1, len(targets))).sum().backward()
        outcomes.append((*out, hidden.grad.clone(), head.weight.grad.clone()))
    plain = ((hidden @ head.weight.T + bias) / 0.7).log_softmax(-1)
    chosen = plain.gather(-1, targets[:, None])[:, 0]
    for values in outcomes:
        torch.testing.assert_close(values[0], chosen)
        for got, first in zip(values, outcomes[0], strict=True):
            torch.testing.assert_close(got, first, rtol=1e-5, atol=1e-6)


def test_a_chunk_of_logits_is_all_that_exists(monkeypatch):
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", 11 * 5)
    head, hidden, targets = setup()
    sizes, calls = [], []
    plain = logprobs._logits

    def counting(states, *arguments):
        sizes.append(len(states))
        return plain(states, *arguments)

    monkeypatch.setattr(logprobs, "_logits", counting)
    head.register_forward_hook(lambda *_: calls.append(1))
    response_logprobs(head, hidden, targets, torch.zeros(11), 1.0).logprobs_N.sum().backward()
    assert max(sizes) == 5
    assert sum(sizes) == 2 * 37  # once forward, once again in the backward pass
    assert len(calls) == 1  # ZeRO-3 gathers the weight once per call, on all ranks


def test_entropy_is_detached_and_logprobs_are_float32():
    head, hidden, targets = setup()
    out = response_logprobs(head.bfloat16(), hidden.bfloat16(), targets, torch.zeros(11), 1.0)
    assert out.logprobs_N.dtype is torch.float32
    assert out.logprobs_N.requires_grad
    assert not out.entropy_N.requires_grad


def test_the_product_is_float32_whatever_the_types():
    """Logits of 20 would be rounded to multiples of 0.125 in bfloat16."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 64).bfloat16(), (3 * torch.randn(50, 64)).bfloat16()
    exact = hidden.double() @ weight.double().T
    assert exact.abs().max() > 32
    assert ((hidden @ weight.T).double() - exact).abs().max() > 0.05
    head = LogprobHead.adopt(torch.nn.Linear(64, 50, bias=False))
    head.weight.data = weight
    targets, expected = torch.arange(6), exact.log_softmax(-1)
    plain = response_logprobs(head, hidden, targets, torch.zeros(50), 1.0)

    def no_loss(part, chunk):
        return torch.zeros(()), torch.zeros_like(part.logprobs_N)

    _, fused = fused_loss(head, hidden, targets, torch.zeros(50), 1.0, no_loss)
    for out in (plain, fused):
        gap = out.logprobs_N.double() - expected.gather(-1, targets[:, None])[:, 0]
        assert gap.abs().max() < 1e-4


def test_no_tokens():
    head, hidden, _ = setup()
    out = response_logprobs(
        head, hidden[:0], torch.zeros(0, dtype=torch.long), torch.zeros(11), 1.0
    )
    assert out.logprobs_N.shape == (0,)


def objective(out, weights):
    """A loss that is a sum over tokens and not linear in the log-probs."""
    return (weights * out.logprobs_N.exp()).sum()


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_the_fused_loss_has_the_gradient_of_the_plain_one(monkeypatch, rows):
    monkeypatch.setitem(logprobs.CHUNK_LOGITS, "cpu", 11 * rows)
    head, hidden, targets = setup()
    hidden.requires_grad_()
    bias = torch.zeros(11)
    bias[3] = -100.0
    weights = torch.linspace(-1, 1, len(targets))

    out = response_logprobs(head, hidden, targets, bias, 0.7)
    loss = objective(out, weights)
    (3.0 * loss).backward()
    references = [loss.detach(), hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None

    def chunk_loss(part, chunk):
        with torch.enable_grad():
            chosen = part.logprobs_N.detach().requires_grad_()
            value = objective(ResponseLogprobs(chosen, part.entropy_N), weights[chunk])
            (grad,) = torch.autograd.grad(value, chosen)
        return value.detach(), grad

    fused, scored = fused_loss(head, hidden, targets, bias, 0.7, chunk_loss)
    (3.0 * fused).backward()
    for got, expected in zip([fused, hidden.grad, head.weight.grad], references, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scored.logprobs_N, out.logprobs_N.detach())
    torch.testing.assert_close(scored.entropy_N, out.entropy_N)
    assert not scored.logprobs_N.requires_grad
