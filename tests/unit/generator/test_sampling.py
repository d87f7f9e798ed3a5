"""Sampling and grading in chunks, with a generator that answers by rule."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from helpers import bare_prompt, make_sample
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.generator import sampling
from sapo_vl.generator.base import SamplingParams, SamplingRequest, requests_of
from sapo_vl.generator.sampling import (
    RENDERED,
    REQUESTS,
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

    def generate(self, requests):
        """Return `params.n` rollouts per request."""
        self.calls.append([request.prompt.sample.id for request in requests])
        self.seeds.extend(request.seed for request in requests)
        return [
            [Rollout(r.prompt, [1] * 3, f"\\boxed{{{7 + (i > 0)}}}") for i in range(r.params.n)]
            for r in requests
        ]


def ask(engine, prompts, seeds):
    """Return the engine's groups for the prompts, two responses each."""
    return engine.sample(requests_of(prompts, PARAMS, seeds))


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
    groups = ask(SampleEngine(generator, Renderer(), rubric), prompts, [10, 20])
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
    (group,) = ask(engine, [bare_prompt()], [1])
    # three tokens of three are all of the limit: the whole penalty
    assert [r.verdict.value for r in group.rollouts] == pytest.approx([0.0, -1.0])


def test_without_a_rubric_nothing_is_graded():
    (group,) = ask(SampleEngine(Generator(), Renderer()), [bare_prompt()], [1])
    assert [r.reward for r in group.rollouts] == [None, None]


def test_a_prompt_that_is_too_long_gives_a_group_without_rollouts(rubric):
    generator = Generator()
    engine = SampleEngine(generator, Renderer(), rubric, max_prompt_tokens=8)
    prompts = [bare_prompt(n, name=str(n)) for n in (8, 9, 3)]
    groups = ask(engine, prompts, [1, 2, 3])
    assert generator.calls == [["8", "3"]]
    assert generator.seeds == [1, 3]  # each keeps its own
    assert [group.prompt for group in groups] == prompts
    assert [len(group.rollouts) for group in groups] == [2, 0, 2]
    assert not groups[1].has_gradient


def test_prompts_that_are_all_too_long(rubric):
    engine = SampleEngine(Generator(), Renderer(), rubric, max_prompt_tokens=1)
    groups = ask(engine, [bare_prompt(2), bare_prompt(3)], [1, 2])
    assert [group.rollouts for group in groups] == [[], []]


def test_samples_are_rendered_and_sampled_by_chunks(rubric, monkeypatch):
    monkeypatch.setattr(sampling, "REQUESTS", 40)
    generator, renderer = Generator(), Renderer()
    samples = [make_sample(name=str(1 + i)) for i in range(2 * 40 + 1)]
    seeds = list(range(100, 100 + len(samples)))
    engine = SampleEngine(generator, renderer, rubric, max_prompt_tokens=80)
    chunks = sample_and_grade(engine, samples, PARAMS, seeds)
    first = next(chunks)
    assert renderer.chunks == [RENDERED, RENDERED, 8]  # lazily: the images of one chunk at a time
    groups = [*first, *(group for chunk in chunks for group in chunk)]
    assert sum(renderer.chunks) == 81
    assert [len(call) for call in generator.calls] == [40, 40, 0]
    assert generator.seeds == seeds[:-1]
    assert [group.prompt.sample.id for group in groups] == [sample.id for sample in samples]
    assert groups[-1].rollouts == []  # the longest prompt is one token too long


def test_requests_of_one_call_may_differ():
    generator, prompt = Generator(), bare_prompt()
    greedy = SamplingRequest(prompt, SamplingParams(1, 0.0, 16), 3)
    sampled = SamplingRequest(prompt, SamplingParams(4, 1.0, 16), 3)
    groups = SampleEngine(generator, Renderer()).sample([greedy, sampled])
    assert len(generator.calls) == 1
    assert [len(group.rollouts) for group in groups] == [1, 4]


def test_a_sample_that_is_asked_several_times_is_rendered_once():
    """Its requests then share one picture: it is hashed, sent and encoded once."""
    renderer, generator = Renderer(), Generator()
    one, two = make_sample(name="1"), make_sample(name="2")
    samples = [one, one, one, two, two]
    (groups,) = sample_and_grade(SampleEngine(generator, renderer), samples, PARAMS, [*range(5)])
    assert renderer.chunks == [2]
    assert [g.prompt.sample.id for g in groups] == ["1", "1", "1", "2", "2"]
    assert groups[0].prompt is groups[2].prompt
    assert generator.seeds == [0, 1, 2, 3, 4]


def lengths(*arguments):
    return [len(prompts) for prompts in rendered_chunks(*arguments)]


def test_a_chunk_counts_requests():
    samples = [make_sample(name="1")] * (REQUESTS + 1)
    assert lengths(samples, Renderer().render) == [REQUESTS, 1]
    assert lengths(samples, Renderer().render, 2) == [REQUESTS // 2, REQUESTS // 2, 1]
    assert lengths(samples, Renderer().render, 2, 4) == [*[REQUESTS // 8] * 8, 1]
    assert lengths([], Renderer().render) == []


def test_a_chunk_ends_when_its_pictures_are_large(monkeypatch):
    """Pictures of 64 pixels, 16 samples rendered at a time: 1,024 pixels, then 2,048."""
    monkeypatch.setattr(sampling, "PIXELS", 2000)
    samples = [make_sample(name="1")] * 70

    def render(part):
        return [bare_prompt(images=1) for _ in part]

    assert lengths(samples, render) == [32, 32, 6]
    assert lengths(samples, render, 1, 2) == [16, 16, 16, 16, 6]  # two ranks share the limit


def test_samples_that_cannot_be_rendered_leave_room_for_others(monkeypatch):
    monkeypatch.setattr(sampling, "REQUESTS", 10)
    samples = [make_sample(name=str(i)) for i in range(25)]

    def render(part):
        return [bare_prompt() for sample in part if int(sample.id) >= 3]

    assert lengths(samples, render) == [10, 10, 2]


def test_a_rank_without_samples_calls_as_often_as_the_others(monkeypatch):
    """The other rank has 1, 64, 65 samples; this one none or fewer."""
    monkeypatch.setattr(sampling, "REQUESTS", 64)
    for own, other, expected in (
        (0, 1, [0]), (64, 65, [64, 0]), (0, 129, [0, 0, 0]), (65, 64, [64, 1]),
    ):  # fmt: skip
        left = iter(range(other, -200, -64))  # what the other rank says before each chunk
        monkeypatch.setattr(
            sampling.distributed, "all_reduce_max", lambda mine, left=left: max(mine, next(left))
        )
        assert lengths([make_sample(name="1")] * own, Renderer().render) == expected


def test_a_response_begins_with_what_the_template_opened(rubric):
    """The answer in a thought that never ends counts nowhere, whatever the engine returned."""
    prompts = [replace(bare_prompt(name=name), opening=opening) for name, opening in OPENINGS]
    groups = ask(SampleEngine(Generator(), Renderer(), rubric), prompts, [1, 2])
    assert [g.rollouts[0].text for g in groups] == ["\\boxed{7}", "<think>\n\\boxed{7}"]
    assert [g.rollouts[0].verdict.correct for g in groups] == [True, False]


OPENINGS = [("a", ""), ("b", "<think>\n")]


def test_sampling_and_grading_are_heartbeats(rubric, monkeypatch):
    beats = []
    monkeypatch.setattr(sampling, "beat", lambda: beats.append(1))
    ask(SampleEngine(Generator(), Renderer(), rubric), [bare_prompt()], [1])
    assert len(beats) == 2
