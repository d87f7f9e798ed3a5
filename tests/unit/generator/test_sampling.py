"""Sampling and grading in chunks, with a generator that answers by rule."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from helpers import bare_prompt, make_sample
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.generator import sampling
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import (
    CHUNK,
    SampleEngine,
    problem_seed,
    rendered_chunks,
    sample_and_grade,
)
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Outcome, Rollout

PARAMS = SamplingParams(2, 1.0, 16)


class Renderer:
    """A prompt's length is the number in its sample's id; renders keep their sizes."""

    def __init__(self) -> None:
        self.chunks: list[int] = []

    def render(self, samples):
        """Return a prompt per sample."""
        self.chunks.append(len(samples))
        return [bare_prompt(int(sample.id), name=sample.id) for sample in samples]


class Generator:
    """The first response is 7, which is right, the others are 8; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.seeds: list[int] = []

    def generate(self, prompts, params, seeds):
        """Return `params.n` rollouts per prompt."""
        assert len(prompts) == len(seeds)
        self.calls.append([prompt.sample.id for prompt in prompts])
        self.seeds.extend(seeds)
        texts = ["\\boxed{7}", *["\\boxed{8}"] * (params.n - 1)]
        return [[Rollout(prompt, [1] * 3, text) for text in texts] for prompt in prompts]


@pytest.fixture
def rubric():
    return Rubric.from_terms([("boxed", 1.0), ("format", 0.5)])


def test_a_problem_has_a_seed_of_its_own():
    assert problem_seed(3, "11:a") == zlib.crc32(b"3:11:a") & 0x7FFFFFFF
    assert len({problem_seed(seed, name) for seed in range(20) for name in "abcde"}) == 100


@given(st.integers(0, 2**31), st.text())
def test_seeds_fit_a_signed_32_bit_number(seed, name):
    value = problem_seed(seed, name)
    assert 0 <= value < 2**31
    assert value == problem_seed(seed, name)


def test_responses_are_grouped_and_graded(rubric):
    generator = Generator()
    prompts = [bare_prompt(3, name="a"), bare_prompt(5, name="b")]
    groups = SampleEngine(generator, Renderer(), rubric).sample(prompts, PARAMS, [10, 20])
    assert generator.calls == [["a", "b"]]
    assert generator.seeds == [10, 20]
    for group, prompt in zip(groups, prompts, strict=True):
        assert group.prompt is prompt
        assert [r.prompt for r in group.rollouts] == [prompt, prompt]
        assert [r.verdict.correct for r in group.rollouts] == [True, False]
        assert [r.verdict.terms["boxed"].outcome for r in group.rollouts] == [
            Outcome.CORRECT,
            Outcome.WRONG,
        ]
        assert set(group.rollouts[0].verdict.terms) == {"boxed", "format"}


def test_lengths_are_the_rubrics_too():
    rubric = Rubric.from_terms([("boxed", 1.0), ("overlong", -1.0)], max_tokens=3)
    engine = SampleEngine(Generator(), Renderer(), rubric)
    (group,) = engine.sample([bare_prompt()], PARAMS, [1])
    # three tokens of three are all of the limit: the whole penalty
    assert [r.verdict.value for r in group.rollouts] == pytest.approx([0.0, -1.0])


def test_without_a_rubric_nothing_is_graded():
    (group,) = SampleEngine(Generator(), Renderer()).sample([bare_prompt()], PARAMS, [1])
    assert [r.reward for r in group.rollouts] == [None, None]


def test_a_prompt_that_is_too_long_gives_a_group_without_rollouts(rubric):
    generator = Generator()
    engine = SampleEngine(generator, Renderer(), rubric, max_prompt_tokens=8)
    prompts = [bare_prompt(n, name=str(n)) for n in (8, 9, 3)]
    groups = engine.sample(prompts, PARAMS, [1, 2, 3])
    assert generator.calls == [["8", "3"]]
    assert generator.seeds == [1, 3]  # each keeps its own
    assert [group.prompt for group in groups] == prompts
    assert [len(group.rollouts) for group in groups] == [2, 0, 2]
    assert not groups[1].has_gradient


def test_prompts_that_are_all_too_long(rubric):
    engine = SampleEngine(Generator(), Renderer(), rubric, max_prompt_tokens=1)
    groups = engine.sample([bare_prompt(2), bare_prompt(3)], PARAMS, [1, 2])
    assert [group.rollouts for group in groups] == [[], []]


def test_samples_are_rendered_and_sampled_by_chunks(rubric):
    generator, renderer = Generator(), Renderer()
    samples = [make_sample(name=str(1 + i)) for i in range(2 * CHUNK + 1)]
    seeds = list(range(100, 100 + len(samples)))
    engine = SampleEngine(generator, renderer, rubric, max_prompt_tokens=2 * CHUNK)
    chunks = sample_and_grade(engine, samples, PARAMS, seeds)
    first = next(chunks)
    assert renderer.chunks == [CHUNK]  # lazily: the images of one chunk at a time
    groups = [*first, *(group for chunk in chunks for group in chunk)]
    assert renderer.chunks == [CHUNK, CHUNK, 1]
    assert [len(call) for call in generator.calls] == [CHUNK, CHUNK, 0]
    assert generator.seeds == seeds[:-1]
    assert [group.prompt.sample.id for group in groups] == [sample.id for sample in samples]
    assert groups[-1].rollouts == []  # the longest prompt is one token too long


def test_chunks_of_another_size():
    renderer = Renderer()
    samples = [make_sample(name=str(1 + i)) for i in range(5)]
    chunks = list(rendered_chunks(SampleEngine(Generator(), renderer), samples, chunk=2))
    assert [[p.sample.id for p in chunk] for chunk in chunks] == [["1", "2"], ["3", "4"], ["5"]]
    assert list(rendered_chunks(SampleEngine(Generator(), renderer), [])) == []


def test_a_response_begins_with_what_the_template_opened(rubric):
    """The answer in a thought that never ends counts nowhere, whatever the engine returned."""
    prompts = [replace(bare_prompt(name=name), opening=opening) for name, opening in OPENINGS]
    groups = SampleEngine(Generator(), Renderer(), rubric).sample(prompts, PARAMS, [1, 2])
    assert [g.rollouts[0].text for g in groups] == ["\\boxed{7}", "<think>\n\\boxed{7}"]
    assert [g.rollouts[0].verdict.correct for g in groups] == [True, False]


OPENINGS = [("a", ""), ("b", "<think>\n")]


def test_sampling_and_grading_are_heartbeats(rubric, monkeypatch):
    beats = []
    monkeypatch.setattr(sampling, "beat", lambda: beats.append(1))
    SampleEngine(Generator(), Renderer(), rubric).sample([bare_prompt()], PARAMS, [1])
    assert len(beats) == 2
