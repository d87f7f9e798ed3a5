"""Parity of sampler and learner: its limits, its warnings, and ruined weights."""

from __future__ import annotations

import math

import pytest
import torch

from sapo_vl.config import load
from sapo_vl.training.parity import (
    ParityCheck,
    ParityError,
    WeightsError,
    check_weights,
    parity_limits,
)


def figures(kind: str, mean: float, largest: float) -> dict[str, float]:
    return {f"mismatch/mean_abs_{kind}": mean, f"mismatch/max_abs_{kind}": largest}


STRICT = ("model.dtype=float32", "generator.parity_stop=0.01")


@pytest.mark.parametrize(
    ("kind", "mean", "largest", "words"),
    [
        ("text", 0.011, 0.05, r"step 7: .* by 0\.011 nats .* text-only prompts, at most 0\.05"),
        (
            "image",
            0.011,
            0.05,
            r"pictures, .*above generator\.parity_stop=0\.01 \(1 on one token\)",
        ),
        ("text", 0.01, 1.1, r"at most 1\.1 .*none seen on prompts with pictures"),
        ("text", math.nan, math.nan, r"generator\.parity_stop=0\.01"),
    ],
)
def test_a_sampler_that_disagrees_stops_the_run(kind, mean, largest, words):
    check = ParityCheck(load(None, [*STRICT]))
    with pytest.raises(ParityError, match=words):
        check.observe(figures(kind, mean, largest), 7)


def test_parity_at_its_limits_is_fine_and_so_is_nothing_to_compare():
    check = ParityCheck(load(None, [*STRICT, "generator.parity_warn=0.01"]))
    assert check.observe(figures("text", 0.01, 1.0), 7) == []
    assert check.observe({}, 7) == []


def test_a_warning_names_the_kind_of_prompt_once():
    check = ParityCheck(load(None, ["model.dtype=bfloat16"]))
    assert check.observe(figures("text", 0.1, 9.0) | figures("image", 0.5, 9.0), 1) == []
    (line,) = check.observe(figures("text", 0.06, 9.0) | figures("image", 0.51, 9.5), 2)
    assert line.startswith(
        "warning: step 2: log-probs of sampler and learner differ by 0.51 nats on average on "
        "prompts with pictures, at most 9.5 (0.06 on text-only prompts), above "
        "generator.parity_warn=0.5;"
    )
    (line,) = check.observe(figures("text", 0.2, 9.0) | figures("image", 0.51, 9.5), 3)
    assert "0.2 nats on average on text-only prompts" in line
    assert check.observe(figures("text", 0.9, 9.0) | figures("image", 0.9, 9.5), 4) == []
    with pytest.raises(ParityError, match=r"generator\.parity_stop=1:"):
        check.observe(figures("text", 0.06, 1.0) | figures("image", 1.01, 9.0), 5)


@pytest.mark.parametrize(
    ("keys", "limits"),
    [
        (["model.dtype=float32"], ({"text": 1e-5, "image": 1e-5}, 1e-3, 0.1)),
        (["model.dtype=bfloat16"], ({"text": 0.1, "image": 0.5}, 1.0, math.inf)),
        ([*STRICT, "generator.parity_warn=0.002"], ({"text": 2e-3, "image": 2e-3}, 0.01, 1.0)),
        (
            ["model.dtype=bfloat16", "generator.parity_stop=3"],
            ({"text": 0.1, "image": 0.5}, 3.0, math.inf),
        ),
    ],
)
def test_limits_follow_the_type_of_the_weights(keys, limits):
    assert parity_limits(load(None, keys)) == limits


@pytest.mark.parametrize(
    ("keys", "sampler", "limits"),
    [
        (["model.dtype=float32"], "float32", ({"text": 1e-5, "image": 1e-5}, 1e-3, 0.1)),
        (["model.dtype=float32"], "bfloat16", ({"text": 0.03, "image": 0.03}, 0.3, math.inf)),
        (
            ["model.dtype=float32", "generator.parity_warn=0.1", "generator.parity_stop=0.2"],
            "bfloat16",
            ({"text": 0.1, "image": 0.1}, 0.2, math.inf),
        ),
    ],
)
def test_a_sampler_of_another_type_has_limits_of_its_own(keys, sampler, limits):
    assert parity_limits(load(None, keys), sampler) == limits


def test_a_bfloat16_sampler_of_float32_weights_may_round():
    check = ParityCheck(load(None, ["model.dtype=float32"]), "bfloat16")
    assert check.observe(figures("image", 0.02, 2.0), 1) == []
    assert len(check.observe(figures("image", 0.04, 2.0), 2)) == 1
    with pytest.raises(ParityError, match=r"generator\.parity_stop=0\.3:"):
        check.observe(figures("image", 0.31, 2.0), 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
def test_ruined_weights_are_named_with_the_learning_rate(value):
    model = torch.nn.Linear(3, 2)
    config = load(None, ["learner.lr=0.5"])
    check_weights(config, model, 7)
    check_weights(config, None, 7)
    with torch.no_grad():
        model.bias[1] = value
    with pytest.raises(WeightsError, match=r"step 7: bias .*learner\.lr=0\.5"):
        check_weights(config, model, 7)
    check = ParityCheck(config)
    for mean in (math.nan, 0.2):  # the cause of a difference that stops, or that is warned of
        with pytest.raises(WeightsError):
            check.observe(figures("text", mean, 0.5), 7, model)
    assert check.observe(figures("text", 0.05, 0.5), 7, model) == []
