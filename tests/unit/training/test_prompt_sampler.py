"""Which records a step samples from: epochs, fixed shares of tasks, and resampling."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from helpers import make_sample
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.config import load
from sapo_vl.data import store
from sapo_vl.errors import ConfigError
from sapo_vl.model.usable_samples import UsableSamples
from sapo_vl.training.prompt_sampler import Draw, PromptSampler, TaskMixture, shuffled_indices

TASKS = ["count"] * 40 + ["bars"] * 15 + ["line"] * 9


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> UsableSamples:
    """Return 64 records of three tasks, as a run has them."""
    path = tmp_path_factory.mktemp("records") / "data"
    samples = [make_sample(name=f"r{i}") for i in range(len(TASKS))]
    store.write(path, [replace(s, task=t) for s, t in zip(samples, TASKS, strict=True)])
    return UsableSamples(store.load(path, "train"), range(len(TASKS)))


@pytest.fixture(scope="module")
def build(records):
    """Return a function that builds a sampler of the records."""

    def make(*overrides: str) -> PromptSampler:
        keys = ["rollout.prompts=16", "algorithm.num_mini_batches=2", *overrides]
        return PromptSampler(load(None, keys), records)

    return make


RATIO = "data.ratio={count: 2, bars: 1, line: 1}"


@given(st.integers(1, 50), st.integers(0, 5), st.integers(1, 4))
def test_each_epoch_is_a_permutation(length, seed, epochs):
    indices = shuffled_indices(length, seed, 0, length * epochs)
    for epoch in range(epochs):
        assert sorted(indices[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 130), st.integers(1, 90))
def test_drawing_goes_on_at_any_cursor(length, seed, cursor, count):
    assert (
        shuffled_indices(length, seed, cursor, count)
        == shuffled_indices(length, seed, 0, 300)[cursor : cursor + count]
    )


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = shuffled_indices(50, 0, 0, 50), shuffled_indices(50, 0, 50, 50)
    assert first != second
    assert first != shuffled_indices(50, 1, 0, 50)


def test_without_ratio_the_split_is_walked_through(build):
    draws = [build().step(3, 48, rank, 2) for rank in range(2)]
    assert [draw.index for draw in draws[0]] == shuffled_indices(64, 0, 48, 16)[0::2]
    assert [draw.index for draw in draws[1]] == shuffled_indices(64, 0, 48, 16)[1::2]
    assert {draw.mini_batch for share in draws for draw in share} == {None}


@given(st.integers(0, 30), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_every_mini_batch_holds_its_shares(build, step, ranks, seed):
    sampler = build(RATIO, f"run.seed={seed}")
    everything = [draw for rank in range(ranks) for draw in sampler.step(step, 0, rank, ranks)]
    for number in range(2):
        members = [draw for draw in everything if draw.mini_batch == number]
        assert Counter(draw.task for draw in members) == {"count": 4, "bars": 2, "line": 2}
        assert all(TASKS[draw.index] == draw.task for draw in members)
    again = build(RATIO, f"run.seed={seed}")
    assert sampler.step(step, 0, 0, ranks) == again.step(step, 5, 0, ranks)


def test_a_task_is_walked_through_before_it_comes_again(build):
    sampler = build(RATIO)
    draws = [draw for step in range(5) for draw in sampler.step(step, 0, 0, 1)]
    indices = [draw.index for draw in draws if draw.task == "count"]
    assert len(indices) == len(set(indices)) == 40


def test_an_unknown_task_is_refused(build):
    with pytest.raises(ConfigError, match=r"'bar', which is no task.*did you mean 'bars'"):
        build("data.ratio={count: 2, bar: 1}")


def test_shares_can_be_of_data_sets(build):
    sampler = build("data.ratio={noise: 1}", "data.ratio_by=dataset")
    assert {draw.task for draw in sampler.step(0, 0, 0, 1)} == {"noise"}


def test_resample_draws_other_records_of_the_same_task(build):
    sampler = build(RATIO)
    draws = sampler.step(0, 0, 0, 1)
    dropped = [draw for draw in draws if draw.task != "bars"]
    redraws = sampler.resample((0, 1), 0, 1, draws, dropped)
    assert [(d.task, d.mini_batch) for d in redraws if d.task == "count"] == [
        (d.task, d.mini_batch) for d in dropped if d.task == "count"
    ]
    assert all(TASKS[draw.index] == draw.task for draw in redraws)
    taken = {draw.index for draw in draws}
    assert not taken & {draw.index for draw in redraws}
    assert len({draw.index for draw in redraws}) == len(redraws)
    # 4 of the 9 lines are taken, so that 4 of the 5 others can stand for them
    assert len([draw for draw in redraws if draw.task == "line"]) == 4
    assert sampler.resample((0, 1), 0, 1, draws, dropped) == redraws
    assert sampler.resample((0, 2), 0, 1, draws, dropped) != redraws


def test_an_exhausted_task_gives_none(build):
    lines = [Draw(i, "line", 0) for i, task in enumerate(TASKS) if task == "line"]
    assert build(RATIO).resample((0, 1), 0, 1, lines, lines[:3]) == []


A, B = range(12), range(12, 17)


def test_mixtures_keep_their_shares_and_visit_everything_once():
    members, ratios = {"a": A, "b": B}, {"a": 3, "b": 1}
    mixture = TaskMixture(members, ratios, size=8, seed=1)
    assert mixture.places == {"a": 6, "b": 2}
    batches = [mixture.batch(n) for n in range(10)]
    for batch in batches:
        assert Counter(task for task, _ in batch) == {"a": 6, "b": 2}
    first_epoch = [index for batch in batches[:2] for task, index in batch if task == "a"]
    assert sorted(first_epoch) == list(A)
    of_b = [index for batch in batches[:5] for task, index in batch if task == "b"]
    assert Counter(of_b) == dict.fromkeys(B, 2)  # 10 draws are two epochs of 5
    assert TaskMixture(members, ratios, size=8, seed=1).batch(7) == batches[7]
    assert TaskMixture(members, ratios, size=8, seed=2).batch(7) != batches[7]


def test_ranks_share_a_mini_batch_by_task():
    members = {"a": range(100), "b": range(100, 200)}
    mixture = TaskMixture(members, {"a": 0.75, "b": 0.25}, size=16)
    shares = [mixture.deal(mixture.batch(3), 3, rank, 4) for rank in range(4)]
    for share in shares:
        assert Counter(task for task, _ in share) == {"a": 3, "b": 1}
    assert sorted(pair for share in shares for pair in share) == sorted(mixture.batch(3))


def test_mixtures_that_cannot_be():
    with pytest.raises(ConfigError, match="a mini-batch of 8 records has no place for b"):
        TaskMixture({"a": range(9), "b": range(9)}, {"a": 99, "b": 1}, size=8)
    with pytest.raises(AssertionError, match="b"):
        TaskMixture({"a": range(9)}, {"b": 1}, size=8)
    with pytest.raises(ConfigError, match="b has 0 records"):
        TaskMixture({"a": range(9), "b": []}, {"a": 1, "b": 1}, size=8)
    for ratio in (0, -1):
        with pytest.raises(ConfigError, match=rf"data\.ratio: b has 9 records and ratio {ratio}"):
            TaskMixture({"a": range(9), "b": range(9)}, {"a": 1, "b": ratio}, size=8)


def numbered(sampler: PromptSampler, step: int, ranks: int) -> list[tuple[int, int]]:
    draws = [d for rank in range(ranks) for d in sampler.step(step, 16 * step, rank, ranks)]
    return [(draw.index, draw.copy) for draw in draws]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("overrides", [(), (RATIO,)])
def test_repeated_draws_of_a_step_are_numbered_over_all_ranks(records, overrides, ranks):
    """16 prompts of 3 records; and no number is given where no record comes twice."""
    keys = ["rollout.prompts=16", "algorithm.num_mini_batches=2", *overrides]
    few = records.subset([0, 45, 60])  # one record of each task
    pairs = numbered(PromptSampler(load(None, keys), few), 2, ranks)
    assert len(set(pairs)) == len(pairs) == 16
    assert {index for index, copy in pairs if copy == 0} == {0, 1, 2}
    usual = numbered(PromptSampler(load(None, keys), records), 0, ranks)
    if not overrides:
        assert {copy for _, copy in usual} == {0}


def test_replacements_on_several_ranks_never_share_a_seed(build):
    sampler = build()
    shares = [sampler.step(0, 0, rank, 2) for rank in range(2)]
    redrawn = [
        draw
        for round_ in (1, 2)
        for rank, share in enumerate(shares)
        for draw in sampler.resample((0, round_), rank, 2, share, share)
    ]
    pairs = [(draw.index, draw.copy) for draw in [*shares[0], *shares[1], *redrawn]]
    assert len(set(pairs)) == len(pairs)
    assert len({index for index, _ in pairs}) < len(pairs)  # the test's own premise
    alone = sampler.step(0, 0, 0, 1)
    assert {d.copy for d in sampler.resample((0, 1), 0, 1, alone, alone)} == {0}
