"""Pass rates: scores are cached, a cut cache is repaired, and the bounds decide."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import make_sample

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.pass_rate import needs_image, parse_range, pass_rates, within
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Rollout


def sample(number):
    return replace(make_sample(((64, 64),), number, name=f"s{number}"))


class Scripted:
    """A generator whose first `number in the id` responses are right."""

    asked: list[str]

    def __init__(self):
        self.asked = []

    def generate(self, prompts, params, seeds):
        self.asked += [prompt.sample.id for prompt in prompts]
        return [
            [
                Rollout(p, [1], "\\boxed{7}" if i < int(p.sample.id[1:]) else "no")
                for i in range(params.n)
            ]
            for p in prompts
        ]


class Unrendered:
    """A renderer that leaves the samples as they are."""

    def render(self, samples):
        return [SimpleNamespace(sample=s) for s in samples]


def test_pass_rates_are_cached_and_decide(tmp_path):
    generator, cache = Scripted(), tmp_path / "scores.jsonl"
    engine = SampleEngine(generator, Unrendered(), Rubric.from_terms([("boxed", 1.0)]))
    params = SamplingParams(4, 1.0, 8)
    samples = [sample(n) for n in range(5)]
    pass_rates(engine, samples[:2], params, cache, "s", seed=0)
    cache.write_text(cache.read_text() + '{"id": "s2", "ri')  # interrupted in a line
    rates = pass_rates(engine, samples, params, cache, "s", seed=0)
    assert generator.asked == ["s0", "s1", "s2", "s3", "s4"]
    assert [rates[s.id].rate for s in samples] == [0, 0.25, 0.5, 0.75, 1]
    fit = within(rates, *parse_range("0:0.9"))
    assert [fit(s) for s in samples] == [
        "the pass rate is not over 0: 0",
        *[None] * 3,
        "the pass rate is over 0.9: 1",
    ]
    blind = needs_image(rates)
    assert [blind(s) is None for s in samples] == [True, True, True, False, False]
    with pytest.raises(DataError, match=r"scores\.jsonl"):
        pass_rates(engine, samples, params, cache, "t", seed=0)
    for wrong in ("0.9", "0.5:0.5", "a:b", "0:2"):
        with pytest.raises(ConfigError, match="pass-rate"):
            parse_range(wrong)
