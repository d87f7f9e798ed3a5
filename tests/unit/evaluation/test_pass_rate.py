"""Pass rates: scores are cached, a cut cache is repaired, and the bounds decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import make_sample

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.pass_rate import Solver, needs_image, parse_range, within
from sapo_vl.generator.base import Sampling
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Completion


def sample(number):
    return replace(make_sample(((64, 64),), number, name=f"s{number}"))


class Scripted:
    """A generator whose first `number in the id` responses are right."""

    asked: list[str]

    def __init__(self):
        self.asked = []

    def generate(self, prompts, sampling, seeds):
        self.asked += prompts
        return [
            [
                Completion([1], np.zeros(1), "stop", "\\boxed{7}" if i < int(p[1:]) else "no")
                for i in range(sampling.n)
            ]
            for p in prompts
        ]


class Names:
    """A renderer that gives ids for prompts."""

    def render(self, samples):
        return [s.id for s in samples]


def test_pass_rates_are_cached_and_decide(tmp_path):
    engine, cache = Scripted(), tmp_path / "scores.jsonl"
    rubric = Rubric.from_terms([("boxed", 1.0)])
    solver = Solver(engine, Names(), rubric, Sampling(4, 1.0, 8))
    samples = [sample(n) for n in range(5)]
    solver.scores(samples[:2], cache, "s", seed=0)
    cache.write_text(cache.read_text() + '{"id": "s2", "ri')  # interrupted in a line
    scores = solver.scores(samples, cache, "s", seed=0)
    assert engine.asked == ["s0", "s1", "s2", "s3", "s4"]
    assert [scores[s.id].rate for s in samples] == [0, 0.25, 0.5, 0.75, 1]
    fit = within(scores, *parse_range("0:0.9"))
    assert [fit(s) for s in samples] == [
        "the pass rate is not over 0: 0",
        *[None] * 3,
        "the pass rate is over 0.9: 1",
    ]
    blind = needs_image(scores)
    assert [blind(s) is None for s in samples] == [True, True, True, False, False]
    with pytest.raises(DataError, match="made with other settings"):
        solver.scores(samples, cache, "t", seed=0)
    for wrong in ("0.9", "0.5:0.5", "a:b", "0:2"):
        with pytest.raises(ConfigError, match="pass-rate"):
            parse_range(wrong)
