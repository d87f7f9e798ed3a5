"""Every objective against numbers computed by hand, through one signature; and one by path."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from helpers import DUAL_CLIP, bare_prompt
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl import config as configs
from sapo_vl.algorithm import objectives
from sapo_vl.algorithm.objectives import OBJECTIVES, dapo, dr_grpo
from sapo_vl.algorithm.objectives.spec import (
    MEAN_OF_MEANS,
    TOKEN_MEAN,
    NoOptions,
    mean_over_limit,
)
from sapo_vl.algorithm.surrogate import LossInputs
from sapo_vl.config import Config, load
from sapo_vl.errors import ConfigError
from sapo_vl.learner.token_constants import TokenConstants
from sapo_vl.schema import Rollout

RATIOS = (1.5, 1.0, 0.5, 1.1)  # of two responses with three tokens and one
ADVANTAGES = (2.0, 2.0, 2.0, -1.0)
WEIGHTS = (1 / 6, 1 / 6, 1 / 6, 1 / 2)  # mean of means over two responses
LENGTHS = (3, 1)
BY_PATH = pytest.param(DUAL_CLIP, id="dual_clip")


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def configured(name: str, *overrides: str) -> Config:
    return load(None, [f"objective={name}", *overrides])


@functools.cache
def loss_of(name: str, *options: str):
    return objectives.build(configured(name, *options)).loss


def run(name, ratios=RATIOS, advantages=ADVANTAGES, weights=WEIGHTS, lengths=LENGTHS, options=()):
    """Return the surrogate and d loss / d logprobs; `options` are overrides like `grpo.low=0.1`."""
    old = tensor(*(-1.0 for _ in ratios))
    logprobs = (old + tensor(*ratios).log()).requires_grad_()
    inputs = LossInputs(logprobs, old, tensor(*advantages), tensor(*weights), torch.tensor(lengths))
    out = loss_of(name, *options)(inputs)
    out.loss.backward()
    return out, logprobs.grad.tolist()


def test_grpo_by_hand():
    out, grad = run("grpo")
    # 1.5 is above 1.27 with A > 0: clipped; 0.5 is below 0.8 but lowers the objective: kept
    assert out.loss.item() == pytest.approx(-((1.27 + 1.0 + 0.5) * 2 / 6 - 1.1 / 2), abs=1e-6)
    assert grad == pytest.approx([0, -2 / 6, -0.5 * 2 / 6, 1.1 / 2], abs=1e-6)
    assert out.gate_weight_T.tolist() == [0, 1, 1, 1]
    assert out.grad_coefficient_T.tolist() == pytest.approx([0, 1, 0.5, 1.1])
    # 0.27 over 1 where it is clipped, 0, -0.5; and 0.1 over with A = -1
    assert out.loss_centered.item() == pytest.approx((0.27 - 0.5) * 2 / 6 - 0.1 / 2, abs=1e-6)


def test_grpo_drops_a_negative_token_below_its_bound():
    _, grad = run("grpo", (0.79, 0.81), (-1.0, -1.0), (0.5, 0.5), (2,))
    assert grad == pytest.approx([0, 0.81 / 2], abs=1e-6)


def test_dapo_has_a_higher_upper_bound():
    assert dapo.Options().model_dump() == {"low": 0.2, "high": 0.28}
    _, grad = run("dapo", (1.275,), (1.0,), (1.0,), (1,))
    assert grad == pytest.approx([-1.275])
    assert run("grpo", (1.275,), (1.0,), (1.0,), (1,))[1] == [0]


def test_dr_grpo_clips_at_both_sides_alike():
    assert dr_grpo.Options().model_dump() == {"low": 0.2, "high": 0.2}
    _, grad = run("dr_grpo", (1.19, 1.21), (1.0, 1.0), (0.5, 0.5), (2,))
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
    inputs = LossInputs(logprobs, old, tensor(1.0, 1.0), tensor(0.5, 0.5), torch.tensor([2]))
    out = OBJECTIVES["gspo"].loss(inputs, OBJECTIVES["gspo"].options(low=0.1, high=0.1))
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


def test_sapo_through_the_same_signature():
    _, grad = run("sapo")
    weight = 1 / math.cosh(0.25) ** 2  # at 1.5 and at 0.5
    last = 1.1 / math.cosh(1.05 / 2 * 0.1) ** 2
    expected = [-weight * 1.5 * 2 / 6, -2 / 6, -weight * 0.5 * 2 / 6, last / 2]
    assert grad == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", [*OBJECTIVES, BY_PATH])
@given(
    advantages=st.lists(st.floats(-3, 3).filter(lambda a: abs(a) > 0.01), min_size=1, max_size=6)
)
def test_on_policy_every_objective_has_the_gradient_of_reinforce(name, advantages):
    """With one update per batch there is nothing to compare: r is 1."""
    count = len(advantages)
    out, grad = run(name, (1.0,) * count, advantages, (1 / count,) * count, (1,) * count)
    assert grad == pytest.approx([-a / count for a in advantages], abs=1e-5)
    assert out.loss_centered.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", [*OBJECTIVES, BY_PATH])
@given(
    ratios=st.lists(st.floats(0.02, 20), min_size=4, max_size=4),
    advantages=st.lists(st.floats(-3, 3), min_size=2, max_size=2),
)
def test_the_coefficient_is_what_the_gradient_has(name, ratios, advantages):
    options = ("sapo.tau_pos=0.7", "sapo.tau_neg=1.4") if name == "sapo" else ()
    spread = (advantages[0],) * 3 + (advantages[1],)
    out, grad = run(name, ratios, spread, options=options)
    expected = -tensor(*WEIGHTS) * tensor(*spread) * out.grad_coefficient_T
    torch.testing.assert_close(tensor(*grad), expected, rtol=1e-4, atol=1e-5)


def test_gspo_of_other_bounds():
    # log s of the first response is log(0.75)/3 < log(0.95), of the second log(1.1)
    _, grad = run("gspo", advantages=(-1.0,) * 3 + (-1.0,), options=("gspo.low=0.05",))
    assert grad == pytest.approx([0, 0, 0, 1.1 / 2], abs=1e-6)


def rollout(length: int, **changes) -> Rollout:
    return Rollout(bare_prompt(), [0] * length, **changes)


def test_aggregations_by_hand():
    rollouts = [rollout(3), rollout(1)]

    def weights(aggregation):
        total = sum(aggregation.response(r) for r in rollouts)
        return [aggregation.token(r) / total for r in rollouts]

    assert weights(MEAN_OF_MEANS) == pytest.approx([1 / 6, 1 / 2])
    assert weights(TOKEN_MEAN) == pytest.approx([1 / 4, 1 / 4])
    assert weights(mean_over_limit(10)) == pytest.approx([1 / 20, 1 / 20])


@pytest.mark.parametrize(
    ("name", "token_weights", "normalize", "rounds", "by_token"),
    [
        ("sapo", [1 / 3, 1], True, 0, True),
        ("grpo", [1 / 3, 1], True, 0, True),
        ("gspo", [1 / 3, 1], True, 0, False),
        ("dapo", [1, 1], True, 3, True),
        ("cispo", [1, 1], True, 0, True),
        ("dr_grpo", [1 / 2048, 1 / 2048], False, 0, True),
        pytest.param(DUAL_CLIP, [1 / 3, 1], True, 0, True, id="dual_clip"),
    ],
)
def test_what_comes_with_an_objective(name, token_weights, normalize, rounds, by_token):
    objective = objectives.build(configured(name))
    weights = [objective.aggregation.token(rollout(length)) for length in (3, 1)]
    assert weights == pytest.approx(token_weights)
    assert objective.normalize_advantages is normalize
    assert objective.max_resample_rounds == rounds
    assert objective.by_token is by_token
    assert objective.importance_cap == 2.0
    changed = objectives.build(
        configured(
            name,
            "rollout.max_resample_rounds=1",
            f"algorithm.normalize_advantages={str(not normalize).lower()}",
            "algorithm.importance_cap=null",
        )
    )
    assert changed.max_resample_rounds == 1
    assert changed.normalize_advantages is not normalize
    assert changed.importance_cap is None


def test_the_mismatch_correction_stands_in_front_of_any_objective():
    constants = TokenConstants(
        advantages_T=tensor(1.0),
        weights_T=tensor(1.0),
        old_logprobs_T=tensor(math.log(0.3)),
        generator_logprobs_T=tensor(math.log(0.2)),
        lengths_R=torch.tensor([1]),
    )
    for name in OBJECTIVES:
        for cap, weight in ((2.0, 1.5), (1.2, 1.2), (None, 1.0)):  # min(0.3 / 0.2, cap)
            objective = objectives.build(configured(name))
            logprobs = tensor(math.log(0.3)).requires_grad_()
            objective.loss(constants.inputs(logprobs, slice(0, 1), cap)).loss.backward()
            assert logprobs.grad.item() == pytest.approx(-weight, abs=1e-5), (name, cap)


def test_on_policy_tokens_are_their_own_old_ones():
    constants = TokenConstants(
        advantages_T=tensor(1.0, 2.0, 3.0),
        weights_T=tensor(0.1, 0.2, 0.3),
        old_logprobs_T=None,
        generator_logprobs_T=tensor(0.0, -1.0, -2.0),
        lengths_R=torch.tensor([3]),
    )
    logprobs = tensor(-0.5, -1.5).requires_grad_()
    inputs = constants.inputs(logprobs, slice(1, 3), 1.25)
    assert inputs.old_logprobs_T.tolist() == [-0.5, -1.5]
    assert not inputs.old_logprobs_T.requires_grad
    assert inputs.advantages_T.tolist() == [2.0, 3.0]
    # pi_old / mu is e^0.5 for both, above the cap
    assert inputs.weights_T.tolist() == pytest.approx([0.25, 0.375])
    assert inputs.lengths_R.tolist() == [3]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=gpo"], "objective: 'gpo' is unknown.*did you mean"),
        (["objective=my/loss.py:loss"], "objective: the file 'my/loss.py'"),
        (["clip.high=0.3"], "'clip'.*a section of the objective"),
        (["objective=grpo", "sapo.gate=none"], "'sapo' holds options of objective=sapo"),
        (["objective=grpo", "sapo.tau_neg=2"], "'sapo' holds options of objective=sapo"),
        (["objective=grpo", "grpo.low=2"], r"grpo\.low=2"),
        (["objective=grpo", "grpo.hihg=2"], r"unknown key 'grpo\.hihg'.*'grpo\.high'"),
        (["sapo.tau_neg=0"], r"sapo\.tau_neg=0"),
        (["sapo.gate=erf"], r"sapo\.gate='erf'.*'sigmoid', 'hard' or 'none'"),
        (["data.ratio={count: 1}", "rollout.prompts=63"], "not a multiple"),
    ],
)
def test_contradictions_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        objectives.resolve(load(None, overrides))
    assert "\n" not in str(caught.value)


def test_options_are_resolved_with_their_defaults():
    assert objectives.resolve(configured("grpo", "grpo.high=0.5")).objective_options == {
        "low": 0.2,
        "high": 0.5,
    }
    _, grad = run("grpo", (1.45,), (1.0,), (1.0,), (1,), options=("grpo.high=0.5",))
    assert grad == pytest.approx([-1.45])  # with 0.27 it would be clipped


@pytest.mark.parametrize(
    ("overrides", "gated", "temperatures"),
    [
        ([], True, (1.0, 1.05)),
        (["sapo.tau_pos=0.5", "sapo.tau_neg=2"], True, (0.5, 2.0)),
        (["sapo.gate=hard"], True, None),
        (["sapo.gate=none"], False, None),
        (["objective=grpo"], False, None),
        pytest.param([f"objective={DUAL_CLIP}"], False, None, id="dual_clip"),
    ],
)
def test_what_telemetry_is_told(overrides, gated, temperatures):
    objective = objectives.build(load(None, overrides))
    assert objective.is_gated is gated
    assert objective.temperatures == temperatures


def test_dapo_brings_its_overlong_penalty_once():
    resolved = objectives.resolve(configured("dapo"))
    terms = [("answer", 1.0), ("overlong", -1.0)]
    assert [(term.fn, term.weight) for term in resolved.rewards] == terms
    again = objectives.resolve(resolved)
    assert again == resolved
    chosen = configured("dapo", "rewards=[{fn: overlong, weight: -0.5}, {fn: boxed}]")
    assert objectives.resolve(chosen).rewards == chosen.rewards
    for name in OBJECTIVES:
        if name != "dapo":
            assert objectives.resolve(configured(name)).rewards == Config().rewards


def test_dual_clip_by_hand():
    # A < 0: 5 is above delta = 3 and has no gradient, 2 is inside, 0.5 is below 1 - 0.2;
    # A > 0: 1.3 is above 1 + 0.2
    out, grad = run(
        DUAL_CLIP,
        (5.0, 2.0, 0.5, 1.3),
        (-1.0, -1.0, -1.0, 1.0),
        (0.25,) * 4,
        (4,),
        options=("loss.delta=3",),
    )
    assert out.loss.item() == pytest.approx(0.25 * (3 + 2 + 0.8 - 1.2), abs=1e-6)
    assert grad == pytest.approx([0, 0.25 * 2, 0, 0], abs=1e-6)
    assert out.gate_weight_T.tolist() == [0, 1, 0, 0]
    _, wider = run(DUAL_CLIP, (5.0,), (-1.0,), (1.0,), (1,), options=("loss.delta=6",))
    assert wider == pytest.approx([5.0])


def test_an_objective_by_path_has_a_section_of_its_functions_name(tmp_path):
    config = configured(DUAL_CLIP, "loss.delta=4")
    assert objectives.spec(config).loss.__name__ == "loss"
    assert objectives.spec(config).options.__name__ == "Options"
    resolved = objectives.resolve(config)
    assert resolved.objective_options == {"low": 0.2, "high": 0.2, "delta": 4.0}
    assert configs.dump(resolved)["loss"] == resolved.objective_options
    assert "objective_options" not in configs.dump(resolved)
    (tmp_path / "config.yaml").write_text(configs.to_yaml(resolved))
    assert load(tmp_path / "config.yaml", []) == resolved
    assert objectives.resolve(
        load(tmp_path / "config.yaml", ["loss.low=0.1"])
    ).objective_options == {
        "low": 0.1,
        "high": 0.2,
        "delta": 4.0,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.dleta=3", r"unknown key 'loss\.dleta'.*'loss\.delta'"),
        ("loss.delta=1", r"loss\.delta=1"),
        ("loss=3", "'loss' holds a group of keys"),
        ("sapo.tau_neg=2", "'sapo' holds options of objective=sapo"),
        ("objective_options={delta: 3}", r"loss\.NAME=VALUE"),
    ],
)
def test_wrong_options_of_an_objective_by_path_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        objectives.resolve(configured(DUAL_CLIP, override))


def plugin(tmp_path, text: str, name: str) -> str:
    (tmp_path / "mine.py").write_text(text)
    return f"{tmp_path / 'mine.py'}:{name}"


def test_a_plugin_without_options_takes_none(tmp_path):
    text = (
        "from sapo_vl.algorithm.sapo import Options as Hidden\ndef plain(inputs, options): pass\n"
    )
    config = configured(plugin(tmp_path, text, "plain"))
    assert objectives.spec(config).options is NoOptions
    resolved = objectives.resolve(config)
    assert resolved.objective_options == {}
    assert "plain" not in configs.dump(resolved)
    with pytest.raises(ConfigError, match=r"unknown key 'plain\.tau'"):
        objectives.resolve(configured(config.objective, "plain.tau=3"))


def test_a_plugin_may_be_a_whole_spec(tmp_path):
    text = (
        "from sapo_vl.algorithm.objectives import ObjectiveSpec\n"
        "def loss(inputs, options): pass\n"
        "mine = ObjectiveSpec(loss, aggregation='token_mean', by_token=False,\n"
        "                     max_resample_rounds=2, overlong_penalty=True)\n"
    )
    config = configured(plugin(tmp_path, text, "mine"))
    objective = objectives.build(config)
    assert objective.aggregation is TOKEN_MEAN
    assert (objective.by_token, objective.max_resample_rounds) == (False, 2)
    assert [term.fn for term in objectives.resolve(config).rewards] == ["answer", "overlong"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "neither a function nor ObjectiveSpec"),
        ("absent", "defines no 'absent'"),
        ("run", "'run' is a section already"),
    ],
)
def test_a_plugin_that_is_no_objective_is_refused(tmp_path, name, message):
    path = plugin(tmp_path, "number = 3\ndef run(inputs, options): pass\n", name)
    with pytest.raises(ConfigError, match=message):
        objectives.resolve(configured(path))
