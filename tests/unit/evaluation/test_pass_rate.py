"""Pass rates: cached, resumed, and the filters on them; graded by the training's rubric."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import make_sample, tiny_config

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation import pass_rate
from sapo_vl.evaluation.pass_rate import needs_image, parse_range, pass_rates, within
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Rollout


class Scripted:
    """A generator with as many right responses as the number in the problem's id."""

    def __init__(self) -> None:
        self.sampled: list[str] = []

    def generate(self, requests):
        self.sampled += [request.prompt.sample.id for request in requests]
        return [
            [
                Rollout(r.prompt, [1], "\\boxed{7}" if i < int(r.prompt.sample.id[1:]) else "no")
                for i in range(r.params.n)
            ]
            for r in requests
        ]

    def close(self):
        """End nothing."""


class Renderer:
    """A renderer of prompts that hold their sample only."""

    def __init__(self, *arguments, **options) -> None:
        pass

    def render(self, samples):
        return [SimpleNamespace(sample=s, expanded_ids=[], images=[], opening="") for s in samples]


def test_pass_rates_are_cached_and_decide(tmp_path):
    generator, cache = Scripted(), tmp_path / "scores.jsonl"
    engine = SampleEngine(generator, Renderer(), Rubric.from_terms([("boxed", 1.0)]))
    params = SamplingParams(4, 1.0, 8)
    samples = [make_sample(name=f"s{n}") for n in range(5)]
    counted: list[int] = []
    pass_rates(engine, samples[:2], params, cache, "s", 0, counted.append)
    assert counted == [2]
    cache.write_text(cache.read_text() + '{"id": "s2", "ri')  # interrupted in a line
    rates = pass_rates(engine, samples, params, cache, "s", 0)
    assert generator.sampled == ["s0", "s1", "s2", "s3", "s4"]
    assert [rates[s.id].rate for s in samples] == [0, 0.25, 0.5, 0.75, 1]
    changed = [replace(samples[0], answer="8"), *samples[1:]]
    with pytest.raises(DataError, match="record 's0' has changed"):
        pass_rates(engine, changed, params, cache, "s", 0)
    fit = within(rates, *parse_range("0:0.9"))
    assert [fit(s) is None for s in samples] == [False, True, True, True, False]
    blind = needs_image(rates)
    assert [blind(s) is None for s in samples] == [True, True, True, False, False]
    with pytest.raises(DataError, match=str(cache)):
        pass_rates(engine, samples, params, cache, "t", 0)
    for wrong in ("0.9", "0.5:0.5", "a:b", "0:2"):
        with pytest.raises(ConfigError, match="pass-rate"):
            parse_range(wrong)


def test_several_ranks_are_refused(tmp_path, monkeypatch):
    """They would write into one cache."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="run as one process"):
        pass_rate.solve(tiny_config(tmp_path), [], 2, tmp_path / "scores.jsonl", blind=False)


def test_a_judge_that_training_takes_is_taken(tmp_path, monkeypatch):
    """The rubric is build_rubric's, which passes judge.url on; so nothing is refused here."""
    config = tiny_config(
        tmp_path,
        "rewards=[{fn: boxed, weight: 1.0}, {fn: judge, weight: 0.0}]",
        "judge.url=http://127.0.0.1:1/v1",
        "judge.model=m",
    )
    calls: list[tuple] = []
    monkeypatch.setattr(pass_rate, "open_assets", lambda path: None)
    monkeypatch.setattr(pass_rate, "PromptRenderer", Renderer)
    monkeypatch.setattr(pass_rate, "build", lambda config, assets, seed: Scripted())
    monkeypatch.setattr(pass_rate, "pass_rates", lambda *call: calls.append(call) or {})
    pass_rate.solve(config, [], 2, tmp_path / "scores.jsonl", blind=False)
    (engine, _, params, _, settings, *_) = calls[0]
    assert isinstance(engine.rubric, Rubric)
    assert params.n == 2
    assert "http://127.0.0.1:1/v1" in settings  # another judge's rates are not reused
