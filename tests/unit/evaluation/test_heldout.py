"""Accuracy by hand, with a generator and a verifier that say what they are told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import make_sample

from sapo_vl.evaluation.heldout import accuracy, evaluate, problem_seed
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Completion


def record(name: str, correct: bool | None, mode: str = "sampled", task: str = "a") -> dict:
    return {"id": name, "task": task, "mode": mode, "correct": correct}


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
    assert (result.avg, result.ci95, result.greedy, result.no_verdict) == (0, (0, 0), None, 1)


def test_a_problems_seed_never_changes():
    assert problem_seed(0, "synthetic-0-2") == 695778466
    assert problem_seed(1, "synthetic-0-2") != problem_seed(0, "synthetic-0-2")
    assert all(0 <= problem_seed(s, "x") < 2**31 for s in range(1000))


class Scripted:
    """A generator whose i-th response is right for i below the number in the problem's id."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def generate(self, prompts, sampling, seeds):
        self.calls.append((len(prompts), sampling, list(seeds)))
        return [
            [
                Completion([1], np.zeros(1), "stop", "\\boxed{7}" if i < int(name) else "no")
                for i in range(sampling.n)
            ]
            for name in prompts
        ]


class Names:
    """A renderer that gives each sample's id for its prompt."""

    def render(self, samples):
        return [sample.id for sample in samples]


def test_evaluate_samples_grades_and_writes(tmp_path):
    generator = Scripted()
    samples = [make_sample(name=str(k)) for k in (0, 1, 4)]
    out = tmp_path / "eval" / "x.jsonl"
    result = evaluate(
        generator,
        Names(),
        Rubric.from_terms([("boxed", 1.0)]),
        samples,
        n=4,
        temperature=1.0,
        max_new_tokens=8,
        greedy=True,
        seed=5,
        out=out,
    )
    assert result.avg == pytest.approx((0 + 1 / 4 + 1) / 3)
    assert result.greedy == pytest.approx(2 / 3)
    (_, sampled, seeds), (_, greedy, _) = generator.calls
    assert (sampled.n, sampled.temperature, sampled.max_new_tokens) == (4, 1.0, 8)
    assert (greedy.n, greedy.temperature) == (1, 0.0)
    assert seeds == [problem_seed(5, k) for k in "014"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 3 * 5
    assert sum(line["correct"] for line in lines) == 5 + 2


def test_more_problems_than_a_chunk_are_all_sampled_once():
    generator = Scripted()
    samples = [make_sample(name=str(k)) for k in range(150)]
    result = evaluate(
        generator,
        Names(),
        Rubric.from_terms([("boxed", 1.0)]),
        samples,
        n=1,
        temperature=1.0,
        max_new_tokens=8,
        greedy=False,
        seed=0,
    )
    assert [call[0] for call in generator.calls] == [64, 64, 22]
    assert result.problems == 150
    assert result.avg == pytest.approx(149 / 150)
    assert result.greedy is None
