"""The supervised warm-up's loss and learning rates, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import make_sample

from sapo_vl.algorithm.surrogate import LossInputs
from sapo_vl.config import load
from sapo_vl.config.sections import SftConfig
from sapo_vl.errors import DataError
from sapo_vl.sft import (
    OBJECTIVE,
    _learner_config,
    _solutions,
    continuation,
    cosine,
    cross_entropy,
)


def test_learning_rate_of_the_supervised_warm_up():
    options = SftConfig(steps=6, lr=1.0, lr_warmup_steps=2, final_lr=0.1)
    rates = [cosine(step, options) for step in range(6)]
    half = 0.1 + 0.9 * 0.5
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([1.0, quarter, half, 0.1 + 0.9 * (1 - (quarter - 0.1) / 0.9)])


def test_cross_entropy_by_hand():
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    zeros, weights = torch.zeros(3), torch.tensor([0.25, 0.25, 0.5])
    out = cross_entropy(LossInputs(logprobs, logprobs.detach(), zeros, weights, torch.tensor([3])))
    assert out.loss.item() == pytest.approx(0.25 + 0.5 + 2)
    out.loss.backward()
    assert logprobs.grad.tolist() == [-0.25, -0.25, -0.5]
    assert out.loss_centered.item() == pytest.approx(-2.75)
    assert out.gate_weight_T.tolist() == [1, 1, 1]
    assert OBJECTIVE.importance_cap is None  # solutions have no sampler's log-probs
    assert OBJECTIVE.is_gated is False


@pytest.mark.parametrize(
    ("opening", "solution", "expected"),
    [
        ("", "<think>3 + 4</think>7", "<think>3 + 4</think>7"),
        ("<think>\n", "<think>3 + 4</think>7", "3 + 4</think>7"),
        ("<think>\n", "<think>\n3 + 4\n</think>\n\n7", "3 + 4\n</think>\n\n7"),
        ("<think>", "<think>\n3</think>7", "\n3</think>7"),
        ("<think>\n", " <think>3</think>7", "3</think>7"),
        ("<think>\n", "3 + 4</think>7", "3 + 4</think>7"),
        ("<think>\n", "7", "\n</think>\n\n7"),
        ("<think>\n\n</think>\n\n", "7", "7"),
        ("<answer>", "<answer>7</answer>", "7</answer>"),
        ("<answer>", "7</answer>", "7</answer>"),
    ],
)
def test_a_solution_goes_on_where_the_template_has_begun(opening, solution, expected):
    assert continuation(opening, solution) == expected
    assert (opening + expected).count("<think>") <= 1


def test_solutions_end_with_the_turns_own_token(assets, renderer):
    samples = [make_sample([(32, 32)], name="a"), make_sample(name="b")]
    samples[0] = replace(samples[0], images=(samples[0].images[0][:60],))
    (rollout,) = _solutions(
        assets, renderer, renderer.render_usable(samples)
    )  # the torn picture's is left out
    assert rollout.prompt.sample.id == "b"
    assert rollout.token_ids[-1] == assets.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert assets.tokenizer.decode(rollout.token_ids[:-1]) == samples[1].solution
    with pytest.raises(DataError, match="record a"):
        _solutions(assets, renderer, renderer.render_usable(samples[:1]))


def test_records_without_a_trainable_solution_are_told_apart(renderer):
    solutions = ["7", None, "", "  ", "see <|image_pad|>", "\\boxed{8}"]
    assert renderer.trainable_solutions(solutions) == [0, 5]


def test_the_warm_up_takes_adapters_unless_it_is_told_not_to():
    keys = ["model.lora.rank=8", "rollout.temperature=0.7"]
    taken = _learner_config(load(None, keys))
    assert taken.model.lora.rank == 8
    assert taken.rollout.temperature == 1.0  # cross-entropy
    assert _learner_config(load(None, [*keys, "sft.lora=false"])).model.lora.rank == 0
