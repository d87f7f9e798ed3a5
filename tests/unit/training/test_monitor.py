"""What stops or warns a run: non-finite gradients, parity, and the collapse detector's alarms."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import bare_prompt

from sapo_vl.algorithm import collapse
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.config import load
from sapo_vl.runs.files import write_json
from sapo_vl.runs.folder import Run
from sapo_vl.schema import Rollout
from sapo_vl.training import checkpoint
from sapo_vl.training.checkpoint import TrainState
from sapo_vl.training.monitor import (
    CollapseError,
    NonFiniteGradientError,
    ParityCheck,
    ParityError,
    VerdictBudget,
    WeightsError,
    _lacks_summary,
    check_finite,
    check_weights,
    detect_collapse,
    parity_limits,
)


def report(*names: str, skipped: bool = True) -> UpdateReport:
    rollouts = [Rollout(bare_prompt(name=name), [1]) for name in names]
    return UpdateReport(rollouts=rollouts, skipped=skipped)


def test_non_finite_gradients_are_counted_and_name_their_records(tmp_path, capsys):
    run = Run(load(None, [f"run.dir={tmp_path / 'run'}", "learner.max_bad_steps=3"]), resume=False)
    path = run.dir / "bad_batch_rank_0.json"
    assert check_finite(run, report("a", skipped=False), 0) == 0
    assert not path.exists()
    assert check_finite(run, report("b", "a", "b"), 0) == 1
    assert json.loads(path.read_text()) == ["a", "b"]
    assert str(path) in capsys.readouterr().out
    assert check_finite(run, report("c"), 1) == 2
    assert json.loads(path.read_text()) == ["c"]
    assert check_finite(run, report("d", skipped=False), 2) == 0  # in a row
    with pytest.raises(NonFiniteGradientError, match=r"3 optimizer steps.*bad_batch_rank_0\.json"):
        check_finite(run, report("e"), 2)


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


def shares(*values: float) -> list[dict]:
    return [
        {"step": i, "response/no_verdict": v, "no_verdict": {"v.py:score: timeout": 1}}
        for i, v in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("limit", "steps", "values", "stops_at"),
    [
        (0.5, 9, (1.0, 0.2, 0.2, 0.9, 0.9), 5),  # mean of the last three is 2 / 3
        (0.5, 9, (1.0, 1.0), None),  # three steps make a judgement
        (0.5, 9, (0.5, 0.5, 0.5), None),  # at the limit
        (0.5, 1, (0.6,), 1),  # a run of one step
        (1.0, 9, (1.0, 1.0, 1.0), None),
        (0.0, 9, (0.0, 0.0, 0.1), 3),
    ],
)
def test_the_budget_of_missing_verdicts(limit, steps, values, stops_at):
    budget = VerdictBudget(limit, steps)
    messages = [budget.observe(row) for row in shares(*values)]
    assert [i for i, m in enumerate(messages, start=1) if m] == ([stops_at] if stops_at else [])
    assert all("v.py:score: timeout" in m and "verifier.max_no_verdict" in m for m in messages if m)


def test_a_row_lacks_its_summary_unless_one_of_its_step_is_there(tmp_path):
    run = SimpleNamespace(dir=tmp_path)
    row = {"phase": "eval", "name": "after", "step": 2}
    assert _lacks_summary(run, row)
    write_json(tmp_path / "eval" / "after.json", {"step": 4})
    assert _lacks_summary(run, row)
    write_json(tmp_path / "eval" / "after-step_000002.json", {"step": 2})
    assert not _lacks_summary(run, row)
    assert not _lacks_summary(run, row | {"step": 4})
    assert not _lacks_summary(run, {"phase": "train", "step": 2})


class NoLearner:
    """Nothing to save."""

    def save(self, directory) -> None:
        """Write nothing."""


def trainer(tmp_path, *overrides: str) -> SimpleNamespace:
    """Return as much of a trainer as the detector's alarms need, with three checkpoints."""
    config = load(None, overrides)
    for step in (2, 4, 6):
        checkpoint.save(tmp_path / "checkpoints", NoLearner(), TrainState(step), 9)
    return SimpleNamespace(
        config=config,
        detector=collapse.Detector(config.collapse),
        checkpoints=tmp_path / "checkpoints",
        run=SimpleNamespace(dir=tmp_path),
    )


def rows(count, start=1, **values):
    healthy = {"entropy": 0.5, "gate/mean": 0.999, "ratio/ess": 0.99, "reward/mean": 0.4}
    return [{"phase": "train", "step": start + i, **healthy, **values} for i in range(count)]


def test_an_alarm_pins_the_last_good_checkpoint_and_records_what_it_saw(tmp_path, capsys):
    made = trainer(tmp_path)
    for row in [*rows(4), *rows(3, 5, entropy=0.001)]:
        detect_collapse(made, row)
    (entry,) = json.loads((tmp_path / "collapse.json").read_text())
    assert (entry["rule"], entry["step"], entry["since"]) == ("entropy_low", 7, 5)
    assert entry["checkpoint"] == "step_000004"
    assert entry["row"]["entropy"] == 0.001
    assert "step_000004 is kept" in capsys.readouterr().out
    for step in (8, 10, 12):  # and it outlives the others
        checkpoint.save(made.checkpoints, NoLearner(), TrainState(step), 1)
    names = sorted(path.name for path in made.checkpoints.iterdir())
    assert names == ["step_000004", "step_000012"]
    assert checkpoint.latest(made.checkpoints).name == "step_000012"


def test_it_can_stop_the_run(tmp_path):
    made = trainer(tmp_path, "collapse.action=stop", "collapse.patience=1")
    with pytest.raises(CollapseError, match=r"step 1: stopped by the collapse detector"):
        detect_collapse(made, rows(1, entropy=0.001)[0])


def test_without_an_earlier_checkpoint_nothing_is_pinned(tmp_path, capsys):
    made = trainer(tmp_path, "collapse.patience=1")
    detect_collapse(made, rows(1, entropy=0.001)[0])
    assert "no checkpoint before it" in capsys.readouterr().out


def test_it_can_be_ignored(tmp_path):
    made = trainer(tmp_path, "collapse.action=ignore")
    for row in rows(9, entropy=0.0):
        detect_collapse(made, row)
    assert not (tmp_path / "collapse.json").exists()
