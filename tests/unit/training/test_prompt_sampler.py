"""Which records a step trains on, and what dynamic sampling puts in place of others."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl import train
from sapo_vl.config import load
from sapo_vl.errors import ConfigError
from sapo_vl.schema import Completion, Reward, RolloutGroup
from sapo_vl.training import rollouts
from sapo_vl.training import setup as stages
from sapo_vl.training.checkpoint import Progress
from sapo_vl.training.prompt_sampler import Draws, Pick

TASKS = ["count"] * 40 + ["bars"] * 15 + ["line"] * 9


class Records(list):
    """Records that know their tasks."""

    def column(self, name: str) -> list[str]:
        assert name == "task"
        return TASKS


def draws(*overrides: str) -> Draws:
    keys = ["rollout.prompts=16", "sapo.mini_batches=2", *overrides]
    return Draws(load(None, keys), Records(range(len(TASKS))))


RATIO = "data.ratio={count: 2, bars: 1, line: 1}"


def test_without_ratio_the_split_is_walked_through():
    picks = [draws().step(3, 48, rank, 2) for rank in range(2)]
    assert [pick.index for pick in picks[0]] == stages.draw(64, 0, 48, 16)[0::2]
    assert [pick.index for pick in picks[1]] == stages.draw(64, 0, 48, 16)[1::2]
    assert {pick.mini_batch for own in picks for pick in own} == {None}


@given(st.integers(0, 30), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_every_mini_batch_holds_its_shares(step, ranks, seed):
    made = draws(RATIO, f"run.seed={seed}")
    everything = [pick for rank in range(ranks) for pick in made.step(step, 0, rank, ranks)]
    for number in range(2):
        own = [pick for pick in everything if pick.mini_batch == number]
        assert Counter(pick.source for pick in own) == {"count": 4, "bars": 2, "line": 2}
        assert all(TASKS[pick.index] == pick.source for pick in own)
    assert made.step(step, 0, 0, ranks) == draws(RATIO, f"run.seed={seed}").step(step, 5, 0, ranks)


def test_a_source_is_walked_through_before_it_comes_again():
    made = draws(RATIO)
    seen = [p.index for step in range(5) for p in made.step(step, 0, 0, 1) if p.source == "count"]
    assert len(seen) == len(set(seen)) == 40


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match=r"'bar', which is no task.*did you mean 'bars'"):
        draws("data.ratio={count: 2, bar: 1}")


def test_instead_takes_other_records_of_the_same_source():
    made = draws(RATIO)
    picks = made.step(0, 0, 0, 1)
    dropped = [pick for pick in picks if pick.source != "bars"]
    others = made.instead(0, 1, 0, picks, dropped)
    assert [(p.source, p.mini_batch) for p in others if p.source == "count"] == [
        (p.source, p.mini_batch) for p in dropped if p.source == "count"
    ]
    taken = {pick.index for pick in picks}
    assert not taken & {pick.index for pick in others}
    assert len({pick.index for pick in others}) == len(others)
    # 4 of the 9 lines are taken, so that 4 of the 5 others can stand for them
    assert len([p for p in others if p.source == "line"]) == 4
    assert made.instead(0, 1, 0, picks, dropped) == others
    assert made.instead(0, 2, 0, picks, dropped) != others


def test_an_exhausted_source_gives_none():
    made = draws(RATIO)
    lines = [Pick(i, "line", 0) for i, task in enumerate(TASKS) if task == "line"]
    assert made.instead(0, 1, 0, lines, lines[:3]) == []


def group(index: int, right: int, mini_batch=None) -> RolloutGroup:
    """Return the group of record `index`, `right` of whose two responses are right."""
    rewards = [Reward(float(i < right), i < right, True) for i in range(2)]
    advantages = np.array([1, -1] if right == 1 else [0, 0], dtype=np.float32)
    completions = [Completion([1, 2], np.zeros(2, np.float32), "stop", "") for _ in range(2)]
    prompt = SimpleNamespace(sample=SimpleNamespace(id=f"r{index}"), images=())
    return RolloutGroup(prompt, completions, rewards, advantages, None, mini_batch)


def test_found_groups_take_empty_places_of_their_own_mini_batch():
    groups = [group(0, 0, 0), group(1, 1, 0), group(2, 2, 1), group(3, 0, 1)]
    found = [group(7, 1, 1), group(8, 1, 0)]
    assert rollouts.places(groups, [0, 2, 3], found) == [(2, found[0]), (0, found[1])]


def test_groups_stay_in_the_mini_batch_they_belong_to():
    groups = [group(0, 1, 1), group(1, 1, 1), group(2, 1, 0)]
    batches = rollouts.mini_batches(groups, 2)
    assert [[row.prompt.sample.id for row in rows] for rows in batches] == [
        ["r2", "r2"],
        ["r0", "r0", "r1", "r1"],
    ]


def rolled_out(monkeypatch, outcomes, rounds):
    """Run train.roll_out where record i's group has `outcomes(i)` right responses."""
    config = load(None, ["rollout.prompts=8", "sapo.mini_batches=2", f"rollout.refill={rounds}"])
    job = SimpleNamespace(config=config, draws=Draws(config, Records(range(len(TASKS)))))
    calls = []

    def sample(_job, picks, step):
        calls.append([pick.index for pick in picks])
        return [group(pick.index, outcomes(pick.index)) for pick in picks]

    monkeypatch.setattr(train, "sample", sample)
    groups, sums = train.roll_out(job, Progress(step=2, cursor=16))
    return groups, sums, calls


def test_groups_without_a_gradient_are_replaced(monkeypatch):
    first = stages.draw(64, 0, 16, 8)
    dull = set(first[:3])  # all right; every other record is mixed
    groups, sums, calls = rolled_out(monkeypatch, lambda i: 2 if i in dull else 1, 3)
    assert [len(call) for call in calls] == [8, 3]
    assert [g.prompt.sample.id for g in groups[3:]] == [f"r{i}" for i in first[3:]]
    assert [g.prompt.sample.id for g in groups[:3]] == [f"r{i}" for i in calls[1]]
    assert not dull & set(calls[1])
    assert (sums["refill_drawn"], sums["refill_kept"]) == (3, 3)
    # accuracy is that of what was drawn first: 3 groups of 2 right, 5 of 1
    assert (sums["correct"], sums["responses"], sums["zero_std"]) == (11, 16, 3)


def test_refilling_is_bounded(monkeypatch):
    groups, sums, calls = rolled_out(monkeypatch, lambda i: 0, 2)
    assert [len(call) for call in calls] == [8, 8, 8]
    assert len({i for call in calls for i in call}) == 24
    assert (sums["refill_drawn"], sums["refill_kept"]) == (16, 0)
    assert not any(np.any(g.advantages) for g in groups)


def test_without_rounds_nothing_more_is_drawn(monkeypatch):
    _, sums, calls = rolled_out(monkeypatch, lambda i: 0, 0)
    assert len(calls) == 1
    assert "refill_drawn" not in sums
