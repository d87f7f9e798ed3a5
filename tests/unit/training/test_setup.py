"""What is drawn when, which records are used, and the learning rates of the steps."""

from __future__ import annotations

import math

import pytest
from helpers import make_sample, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl import sft, train
from sapo_vl.config import LearnerConfig, SftConfig
from sapo_vl.data import store
from sapo_vl.errors import DataError
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.training import setup as stages


@given(st.integers(1, 50), st.integers(0, 5), st.integers(1, 4))
def test_each_epoch_is_a_permutation(length, seed, epochs):
    drawn = stages.draw(length, seed, 0, length * epochs)
    for epoch in range(epochs):
        assert sorted(drawn[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 130), st.integers(1, 90))
def test_drawing_goes_on_at_any_cursor(length, seed, cursor, count):
    assert (
        stages.draw(length, seed, cursor, count)
        == stages.draw(length, seed, 0, 300)[cursor : cursor + count]
    )


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = stages.draw(50, 0, 0, 50), stages.draw(50, 0, 50, 50)
    assert first != second
    assert first != stages.draw(50, 1, 0, 50)


def test_records_that_do_not_fit_are_left_out_with_a_reason(
    tmp_path, tiny_folder, renderer, capsys
):
    samples = [
        make_sample([(64, 64)], name="fits"),
        make_sample([(128, 128)] * 3, name="long"),  # 192 visual tokens
        make_sample([(20, 20)] * 3, name="crowded"),
        make_sample([], name="text"),
    ]
    store.write(tmp_path / "d", samples)
    config = tiny_config(tiny_folder, "data.max_prompt_tokens=80", "generator.max_images=2")
    kept = stages.usable(config, renderer, tmp_path / "d", "train", "data.path")
    assert [sample.id for sample in kept] == ["fits", "text"]
    assert [sample.id for sample in kept[:1]] == ["fits"]
    said = capsys.readouterr().out
    assert "1 of 4 records left out, longer than 80 tokens (long" in said
    assert "1 of 4 records left out, more than generator.max_images=2 images (crowded" in said


def test_prompt_and_response_must_fit_the_model_length(tmp_path, tiny_folder, renderer):
    store.write(tmp_path / "d", [make_sample([(64, 64)])])
    (length,) = renderer.lengths([make_sample([(64, 64)])])
    fits = tiny_config(
        tiny_folder, f"generator.max_model_len={length + 16}", "rollout.max_new_tokens=16"
    )
    assert len(stages.usable(fits, renderer, tmp_path / "d", "train", "data.path")) == 1
    narrow = tiny_config(
        tiny_folder, f"generator.max_model_len={length + 15}", "rollout.max_new_tokens=16"
    )
    with pytest.raises(DataError, match=r"none of the 1 records .* fits; raise data"):
        stages.usable(narrow, renderer, tmp_path / "d", "train", "data.path")


def test_a_gold_answer_that_the_verifier_refuses_stops_the_run():
    bad = make_sample(name="odd")
    bad = type(bad)(**{f: getattr(bad, f) for f in bad.__slots__} | {"answer": "1}{2"})
    rubric = Rubric.from_terms([("boxed", 1.0)])
    stages.check_gold(rubric, [make_sample()])
    with pytest.raises(DataError, match="'odd': the gold answer"):
        stages.check_gold(rubric, [make_sample()], [bad])


def test_learning_rate_of_rollout_steps():
    options = LearnerConfig(lr=1.0, warmup_steps=2, final_lr=0.5)
    rates = [train.learning_rate(step, 6, options) for step in range(6)]
    # up over two steps, then down by 1/8 a step towards 0.5, which step 6 would have
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625])


def test_learning_rate_of_a_run_that_is_all_warm_up():
    options = LearnerConfig(lr=1.0, warmup_steps=3)
    assert train.learning_rate(0, 1, options) == pytest.approx(1 / 3)
    assert train.learning_rate(0, 1, LearnerConfig(lr=1.0, warmup_steps=0)) == 1.0


def test_learning_rate_of_the_supervised_warm_up():
    options = SftConfig(steps=6, lr=1.0, warmup_steps=2, final_lr=0.1)
    rates = [sft.cosine(step, options) for step in range(6)]
    half = 0.1 + 0.9 * 0.5
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([1.0, quarter, half, 0.1 + 0.9 * (1 - (quarter - 0.1) / 0.9)])
