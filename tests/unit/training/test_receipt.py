"""Receipts with stand-ins for sampler and learner: limits, samplers that stand still, probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import bare_prompt, make_sample, tiny_config

from sapo_vl.errors import RunError
from sapo_vl.schema import Rollout
from sapo_vl.training.receipt import DeliveryCheck, DeliveryError, probe_prompts

PROMPTS = [bare_prompt(name="words"), bare_prompt(images=1, name="drawing")]


class Sampler:
    """Answers with given log-probs, two tokens to each prompt."""

    def __init__(self, *logprobs, ids=(5, 6)):
        self.logprobs, self.ids = logprobs, list(ids)

    def generate(self, requests):
        assert [r.params.max_new_tokens for r in requests] == [4, 4]
        return [
            [Rollout(r.prompt, self.ids, generator_logprobs=np.array(values, dtype=np.float32))]
            for r, values in zip(requests, self.logprobs, strict=True)
        ]


class Scorer:
    """A learner with given log-probs."""

    weights_away = False

    def __init__(self, *logprobs):
        self.logprobs = logprobs

    def fill_old_logprobs(self, rollouts):
        for rollout, values in zip(rollouts, self.logprobs, strict=True):
            rollout.old_logprobs = np.array(values, dtype=np.float32)


def check(*overrides):
    return DeliveryCheck(tiny_config(Path("tiny"), *overrides), PROMPTS)


def test_a_receipt_holds_the_mean_and_the_largest_difference():
    receipt = check().ask(
        Sampler([-1.0, -2.0], [-3.0, -4.0]), Scorer([-1.0, -2.0004], [-3.0002, -4.0]), 7
    )
    assert receipt.version == 7
    assert receipt.mean_abs == pytest.approx(0.00015, rel=1e-2)
    assert receipt.max_abs == pytest.approx(0.0004, rel=1e-2)
    assert set(receipt.row()) == {"receipt/version", "receipt/mean_abs", "receipt/max_abs"}


def test_weights_that_are_away_give_the_receipt_later():
    tested, learner = check(), Scorer([-1.0, -2.0004], [-3.0002, -4.0])
    learner.weights_away = True
    assert tested.ask(Sampler([-1.0, -2.0], [-3.0, -4.0]), learner, 7) is None
    assert tested.pending
    with pytest.raises(AssertionError, match="never settled"):
        tested.ask(Sampler([-1.0, -2.0], [-3.0, -4.0]), learner, 8)
    receipt = tested.settle(learner)
    assert not tested.pending
    assert receipt == check().ask(Sampler([-1.0, -2.0], [-3.0, -4.0]), Scorer(*learner.logprobs), 7)
    learner.logprobs = [-1.5, -2.0], [-3.0, -4.0]
    tested.ask(Sampler([-1.0, -2.0], [-3.0, -4.0]), learner, 8)
    with pytest.raises(DeliveryError, match=r"step 8: .*0\.5 nats"):
        tested.settle(learner)


@pytest.mark.parametrize(
    ("wrong", "words"), [(0, r"text-only prompts \(record words\)"), (1, r"pictures \(record dr")]
)
def test_a_difference_on_either_prompt_is_refused(wrong, words):
    """The limit is half of generator.parity_stop, 1e-3 nats in float32, for each token."""
    learner = [[-1.0, -2.0], [-3.0, -4.0]]
    learner[wrong] = [learner[wrong][0] - 0.00055, learner[wrong][1]]
    with pytest.raises(
        DeliveryError, match=f"step 3: the sampler doesn't have .*{words}"
    ) as caught:
        check().ask(Sampler([-1.0, -2.0], [-3.0, -4.0]), Scorer(*learner), 3)
    assert isinstance(caught.value, RunError)
    assert "0.00055 nats" in str(caught.value)


def test_the_limit_follows_parity_stop():
    sampler, learner = Sampler([-1.0, -2.0], [-3.0, -4.0]), Scorer([-1.3, -2.3], [-3.3, -4.3])
    check("generator.parity_stop=0.7").ask(sampler, learner, 1)
    with pytest.raises(DeliveryError, match=r"0\.3 nats on one token, above 0\.25"):
        check("generator.parity_stop=0.5").ask(sampler, learner, 1)


def test_rounding_passes_however_low_parity_stop_is():
    tested = check("generator.parity_stop=1e-5")
    learner = [-1.0, -2.0], [-3.0, -4.0]
    tested.ask(Sampler([-1.00029, -2.0], [-3.0, -4.0]), Scorer(*learner), 1)
    with pytest.raises(DeliveryError, match=r"above 0\.0003"):
        tested.ask(Sampler([-1.00032, -2.0], [-3.0, -4.0]), Scorer(*learner), 2)


def test_in_16_bits_the_mean_counts():
    """Half of 1 nat; one token may differ by more."""
    tested = check("model.dtype=bfloat16")
    tested.ask(Sampler([-1.9, -2.0], [-3.0, -4.0]), Scorer([-1.0, -2.0], [-3.0, -4.0]), 1)
    with pytest.raises(DeliveryError, match=r"0\.6 nats on average, above 0\.5"):
        tested.ask(Sampler([-2.2, -2.0], [-3.0, -4.0]), Scorer([-1.0, -2.0], [-3.0, -4.0]), 2)


def test_a_difference_that_is_no_number_is_refused():
    with pytest.raises(DeliveryError, match="nan nats"):
        check().ask(Sampler([-1.0, np.nan], [-3.0, -4.0]), Scorer([-1.0, -2.0], [-3.0, -4.0]), 1)


def test_a_sampler_that_stands_still_while_the_learner_moves_is_refused():
    """In bfloat16 both are within their limit."""
    tested = check("model.dtype=bfloat16")
    still = Sampler([-1.0, -2.0], [-3.0, -4.0])
    tested.ask(still, Scorer([-1.01, -2.0], [-3.0, -4.0]), 1)
    tested.ask(still, Scorer([-1.01, -2.0], [-3.0, -4.0002]), 2)  # moved by 0.00005: too little
    with pytest.raises(DeliveryError, match=r"didn't get the last update.* moved by 0\.0025 nats"):
        tested.ask(still, Scorer([-1.02, -2.0], [-3.0, -4.0002]), 3)


@pytest.mark.parametrize(
    "moved",
    [Sampler([-1.0, -2.0], [-3.0, -4.00001]), Sampler([-1.0, -2.0], [-3.0, -4.0], ids=(5, 7))],
)
def test_a_sampler_that_moved_or_drew_other_tokens_passes(moved):
    tested = check("model.dtype=bfloat16")
    tested.ask(Sampler([-1.0, -2.0], [-3.0, -4.0]), Scorer([-1.01, -2.0], [-3.0, -4.0]), 1)
    receipt = tested.ask(moved, Scorer([-1.05, -2.0], [-3.0, -4.0]), 2)
    assert receipt.max_abs == pytest.approx(0.05, rel=1e-3)


def test_the_probe_is_the_first_prompt_of_each_kind(renderer):
    samples = [
        make_sample([(64, 64)], name="first picture"),
        make_sample([(64, 64)], name="second picture"),
        make_sample(text="<|image_pad|>", name="no prompt"),
        make_sample(name="first text"),
        make_sample(name="second text"),
    ]
    found = [prompt.sample.id for prompt in probe_prompts(samples, renderer)]
    assert found == ["first text", "first picture"]
    (only,) = probe_prompts(samples[:3], renderer)
    assert only.sample.id == "first picture"
