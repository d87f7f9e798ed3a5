"""Accuracy by hand, with a generator and a verifier that say what they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import make_sample

from sapo_vl.config import Config
from sapo_vl.errors import DataError
from sapo_vl.evaluation.heldout import (
    EvalSpec,
    accuracy,
    evaluate,
    evaluation_settings,
    shown,
)
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine, problem_seed
from sapo_vl.model.prompts import Rendered
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Rollout


def record(name: str, correct: bool | None, mode: str = "sampled", task: str = "a") -> dict:
    cause = "timeout" if correct is None else None
    return {"id": name, "task": task, "mode": mode, "correct": correct, "cause": cause}


def test_accuracy_is_a_mean_over_problems_of_means_over_samples():
    records = [
        *[record("p", c) for c in (True, True, False, False)],  # 1/2
        *[record("q", c) for c in (True, None, None, True)],  # 1 of the two judged
        *[record("r", c, task="b") for c in (False, False, False, True)],  # 1/4
        record("p", True, "greedy"),
        record("q", False, "greedy"),
        record("r", False, "greedy", "b"),
    ]
    result = accuracy(records, 4)
    assert result.avg == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)
    assert result.greedy == pytest.approx(1 / 3)
    assert result.tasks == pytest.approx({"a": 0.75, "b": 0.25})
    assert (result.problems, result.samples, result.no_verdict) == (3, 4, 2)
    assert result.ci95[0] < result.avg < result.ci95[1]
    summary = result.summary()
    assert summary["avg@4"] == result.avg
    assert {"ci95", "greedy", "tasks", "no_verdict"} <= set(summary)


def test_accuracy_of_nothing():
    result = accuracy([record("p", None)], 1)
    assert (result.avg, result.ci95, result.greedy, result.no_verdict) == (None, None, None, 1)
    assert result.causes == {"timeout": 1}
    assert shown(result.summary(), 1) == ["-", "-", "-"]


def test_a_problems_seed_never_changes():
    """Stored responses and published runs depend on it."""
    assert problem_seed(0, "synthetic-0-2") == 695778466
    assert problem_seed(1, "synthetic-0-2") != problem_seed(0, "synthetic-0-2")
    assert all(0 <= problem_seed(s, "x") < 2**31 for s in range(1000))


class Scripted:
    """A generator whose i-th response is right for i below the number in the problem's id."""

    def __init__(self) -> None:
        self.calls: list[list] = []

    def generate(self, requests):
        self.calls.append(list(requests))
        return [
            [
                Rollout(r.prompt, [1], "\\boxed{7}" if i < int(r.prompt.sample.id) else "no")
                for i in range(r.params.n)
            ]
            for r in requests
        ]


class Renderer:
    """A renderer of prompts that hold their sample only."""

    def __init__(self) -> None:
        self.rendered = 0

    def render_usable(self, samples):
        self.rendered += len(samples)
        whole = [sample for sample in samples if sample.problem != "torn"]
        prompts = [SimpleNamespace(sample=s, expanded_ids=[], images=[], opening="") for s in whole]
        faults = {i: DataError("torn") for i, s in enumerate(samples) if s.problem == "torn"}
        return Rendered(prompts, faults)


def engine(generator: Scripted) -> SampleEngine:
    return SampleEngine(generator, Renderer(), Rubric.from_terms([("boxed", 1.0)]))


def test_evaluate_samples_grades_and_writes(tmp_path):
    generator = Scripted()
    samples = [make_sample(name=str(k)) for k in (0, 1, 4)]
    out = tmp_path / "eval" / "x.jsonl"
    used = engine(generator)
    result = evaluate(used, samples, EvalSpec(4, 1.0, 8, greedy=True, seed=5), out=out)
    assert result.avg == pytest.approx((0 + 1 / 4 + 1) / 3)
    assert result.greedy == pytest.approx(2 / 3)
    (requests,) = generator.calls  # sampled and greedy responses from one call
    assert [request.params for request in requests] == [
        *[SamplingParams(4, 1.0, 8)] * 3,
        *[SamplingParams(1, 0.0, 8)] * 3,
    ]
    assert [request.seed for request in requests] == [problem_seed(5, k) for k in "014014"]
    assert requests[0].prompt is requests[3].prompt
    assert used.renderer.rendered == 3  # once for both modes
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 3 * 5
    assert sum(line["correct"] for line in lines) == 5 + 2
    assert lines[0] == {
        "id": "0", "task": "sum", "mode": "sampled", "correct": False, "cause": None,
        "reason": "no \\boxed{} after thinking", "answer": "7", "response": "no",
    }  # fmt: skip


def test_more_problems_than_a_chunk_are_all_sampled_once():
    generator = Scripted()
    samples = [make_sample(name=str(k)) for k in range(1100)]
    result = evaluate(engine(generator), samples, EvalSpec(1, 1.0, 8, greedy=False, seed=0))
    assert [len(call) for call in generator.calls] == [512, 512, 76]
    assert result.problems == 1100
    assert result.avg == pytest.approx(1099 / 1100)
    assert result.greedy is None


def test_the_spec_of_a_configuration():
    config = Config.model_validate(
        {
            "run": {"seed": 3},
            "rollout": {"temperature": 0.7},
            "evaluation": {"samples": 2, "temperature": 0.5},
        }
    )
    spec = EvalSpec.of(config)
    assert (spec.samples, spec.temperature, spec.greedy, spec.seed) == (2, 0.5, True, 3)
    assert spec.max_new_tokens == config.rollout.max_new_tokens


def test_a_problem_that_cannot_be_rendered_is_left_out_and_said(capsys):
    samples = [make_sample(name="0"), replace(make_sample(name="1"), problem="torn")]
    result = evaluate(engine(Scripted()), samples, EvalSpec(1, 1.0, 8, greedy=False, seed=0))
    assert (result.problems, result.avg) == (1, 0.0)
    assert "torn" in capsys.readouterr().out


def test_settings_are_all_that_figures_depend_on_but_the_weights():
    base = evaluation_settings(Config())
    assert json.loads(json.dumps(base)) == base
    changes = (
        {"evaluation": {"samples": 3}},
        {"evaluation": {"temperature": 0.5}},
        {"evaluation": {"problems": 3}},
        {"evaluation": {"blank": True}},
        {"rollout": {"max_new_tokens": 9}},
        {"rewards": [{"fn": "boxed"}]},
    )
    for change in changes:
        assert evaluation_settings(Config.model_validate(change)) != base, change
    assert evaluation_settings(Config.model_validate({"learner": {"lr": 1e-3}})) == base
