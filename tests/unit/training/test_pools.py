"""Difficulty pools: who rests, for how long, and that no interruption or lag changes the draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_training import COUNT, steps
from helpers import make_sample

from sapo_vl.config import load
from sapo_vl.data import store
from sapo_vl.model.usable_samples import UsableSamples
from sapo_vl.runs.signals import RunInterrupted
from sapo_vl.training import checkpoint, monitor
from sapo_vl.training.pools import DifficultyPools, PassCount
from sapo_vl.training.prompt_sampler import DrawStart, PromptSampler, Shuffle, shuffled_indices

POOLS = (
    "data.rest_after=1",
    "rollout.steps=24",
    "checkpoint.every=100",
    "run.rollouts_every=0",
    "collapse.action=ignore",
)


def by_thirds(i: int) -> int:
    """Return the right responses of 2: a third of the records is easy, one hard, one mixed."""
    return (2, 0, 1)[i % 3]


@pytest.fixture
def rows(monkeypatch):
    """Return the metrics rows of trainers without a writer, in order."""
    seen: list[dict] = []
    show = monitor._show
    monkeypatch.setattr(monitor, "_show", lambda made, row: (seen.append(row), show(made, row)))
    return seen


def drawn(made) -> list[int]:
    return [i for call in made.generator.calls for i in call]


def test_a_shuffle_passes_over_what_rests_in_its_epoch():
    shuffle = Shuffle(range(10, 16), [3])
    order = [10 + i for i in shuffled_indices(6, 3, 0, 18)]  # three epochs
    assert shuffle.walk(4, 5, {}) == (order[4:9], 9)
    resting = {order[1]: 0, order[2]: 1}  # in epoch 0, and in epochs 0 and 1
    expected = [order[0], *order[3:6], *(i for i in order[6:12] if i != order[2])]
    assert shuffle.walk(0, 9, resting)[0] == expected
    assert shuffle.walk(0, 2, dict.fromkeys(range(10, 16), 1)) == (order[12:14], 14)


def test_who_rests_is_passed_over_for_an_epoch(build, rows):
    """64 records, 8 a step: the 21 mixed ones are all of the second epoch."""
    made = build(by_thirds, *POOLS)
    steps(made, 12)
    first, second, third = (shuffled_indices(COUNT, 0, COUNT * e, COUNT) for e in range(3))
    mixed = [i for i in second if i % 3 == 2]
    assert len(mixed) == 21
    assert drawn(made) == [*first, *mixed, *third[: 96 - COUNT - 21]]
    sizes = [(row["pool/easy"], row["pool/hard"], row["pool/resting"]) for row in rows]
    assert sizes[7] == (22, 21, 43)
    assert sizes[9] == (22, 21, 43)
    # step 11 ends in the third epoch, with the first 3 of its records: only those can rest
    kinds = [i % 3 for i in third[:3]]
    assert sizes[10] == (kinds.count(0), kinds.count(1), 3 - kinds.count(2))


def test_a_rest_may_take_several_epochs_and_begins_after_several_groups(build):
    made = build(by_thirds, *POOLS, "data.rest_after=2", "data.rest_epochs=2")
    steps(made, 22)
    epochs = [shuffled_indices(COUNT, 0, COUNT * e, COUNT) for e in range(5)]
    mixed = [[i for i in epoch if i % 3 == 2] for epoch in epochs]
    expected = [*epochs[0], *epochs[1], *mixed[2], *mixed[3], *epochs[4]]
    assert drawn(made) == expected[: 22 * 8]


def test_without_extreme_groups_nothing_changes(build, rows):
    plain, pooled = build(lambda i: 1, *POOLS, "data.rest_after=0"), None
    steps(plain, 10)
    assert not [key for row in rows for key in row if key.startswith("pool")]
    pooled = build(lambda i: 1, *POOLS, name="pooled")
    steps(pooled, 10)
    assert pooled.generator.calls == plain.generator.calls
    assert pooled.generator.seeds == plain.generator.seeds
    assert pooled.learner.updates == plain.learner.updates
    assert rows[-1]["pool/resting"] == 0


@pytest.fixture
def pools(records):
    """Return a function that builds the pools of 64 records."""

    def make(*overrides: str) -> DifficultyPools:
        config = load(None, ["rollout.prompts=16", *overrides])
        return DifficultyPools(config, PromptSampler(config, records))

    return make


def counted(pools: DifficultyPools, step: int, **right: int | None) -> dict[str, float]:
    """Record groups of 4 responses by record, r3=4 for four right ones; None: no verdict."""
    pools.begin(step, 16 * step)
    return pools.record(
        step,
        [PassCount(int(name[1:]), "", n or 0, 0 if n is None else 4) for name, n in right.items()],
    )


def test_a_streak_ends_with_a_mixed_group_or_one_of_the_other_kind(pools):
    made = pools("data.rest_after=2")
    assert counted(made, 0, r1=4, r2=4, r3=0, r4=4)["pool/resting"] == 0
    assert counted(made, 1, r1=3, r2=0, r3=0, r4=None)["pool/hard"] == 1  # r3
    sizes = counted(made, 2, r1=4, r2=0, r4=4)
    assert sizes == {"pool/resting": 3, "pool/easy": 1, "pool/hard": 2}  # r4; r2 and r3
    # after its rest one group decides; a record may come back as the other kind
    assert counted(made, 3, r3=0, r4=0) == {"pool/resting": 2, "pool/easy": 0, "pool/hard": 2}


def test_a_rest_ends_with_its_epoch(pools):
    made = pools("data.rest_after=1")
    counted(made, 0, r1=4)
    for step in range(1, 7):  # of 64 records: up to the middle of epoch 1
        assert counted(made, step)["pool/easy"] == 1
    # 15 records of epoch 1 are left and r1 among those passed over or not: epoch 2 begins
    assert counted(made, 7)["pool/easy"] == 0


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_draws_see_the_results_that_were_in_when_sampling_began(build, ahead, remote):
    """With rollout.ahead = K those of steps up to t - 1 - K; every record here is easy."""
    made = build(lambda i: 2, *POOLS, f"rollout.ahead={ahead}", "rollout.steps=7", remote=remote)
    seen, begin = {}, made.sampler.pools.begin

    def spy(step: int, cursor: int) -> DrawStart | None:
        start = begin(step, cursor)
        seen[step] = len(start.resting)
        return start

    made.sampler.pools.begin = spy
    steps(made, 7)
    assert seen == {step: 8 * max(0, step - ahead) for step in range(7)}


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory) -> UsableSamples:
    """Return 40 records of one task and 24 of another."""
    path = tmp_path_factory.mktemp("tasks") / "data"
    samples = [make_sample(name=f"r{i}") for i in range(COUNT)]
    tasks = ["count"] * 40 + ["bars"] * 24
    store.write(path, [replace(s, task=t) for s, t in zip(samples, tasks, strict=True)])
    return UsableSamples(store.load(path, "train"), range(COUNT))


RATIO = "data.ratio={count: 1, bars: 1}"


def test_each_task_rests_by_its_own_epochs(build, two_tasks):
    """4 of each task a step: the 24 bars' second epoch begins at step 7, the counts' at step 11."""
    keys = (*POOLS, RATIO)
    made = build(by_thirds, *keys, records=two_tasks)
    steps(made, 8)
    bars = [[i for i in call if i >= 40] for call in made.generator.calls]
    assert sorted(i for call in bars[:6] for i in call) == list(range(40, 64))
    assert sorted(i for call in bars[6:8] for i in call) == [i for i in range(40, 64) if i % 3 == 2]
    assert all(len(call) == 4 for call in bars)


def test_dynamic_sampling_draws_nobody_who_rests(build):
    made = build(by_thirds, *POOLS, "rollout.max_resample_rounds=2")
    resting = []
    begin = made.sampler.pools.begin

    def spy(step: int, cursor: int) -> DrawStart | None:
        start = begin(step, cursor)
        resting.append((len(made.generator.calls), set(start.resting)))
        return start

    made.sampler.pools.begin = spy
    steps(made, 7)
    assert len(made.generator.calls) > 7, "the test's own premise"
    assert resting[-1][1]
    for (first, known), (end, _) in zip(resting, [*resting[1:], (10**6, set())], strict=True):
        redrawn = {i for call in made.generator.calls[first + 1 : end] for i in call}
        assert not redrawn & known
    # replaced groups have counted too: all that was ever drawn and is not mixed rests
    assert {i for i in drawn(made) if i % 3 != 2} == set(made.sampler.pools._resting)


@pytest.mark.parametrize(
    ("ahead", "remote", "signal_at"),  # of 4 updates a step
    [(0, False, 34), (0, True, 47), (2, False, 60), (2, True, 1), (2, True, 34)],
)
@pytest.mark.parametrize("extra", [(RATIO,), ("rollout.max_resample_rounds=1",)])
def test_an_interrupted_run_draws_the_same(build, two_tasks, rows, ahead, remote, signal_at, extra):
    keys = (*POOLS, f"rollout.ahead={ahead}", "rollout.steps=17", *extra)
    whole = build(by_thirds, *keys, name="whole", records=two_tasks, remote=remote)
    steps(whole, 17)
    expected = [{k: v for k, v in row.items() if k.startswith("pool")} for row in rows]
    rows.clear()
    first = build(
        by_thirds, *keys, name="cut", records=two_tasks, remote=remote, signal_at=signal_at
    )
    with pytest.raises(RunInterrupted):
        steps(first, 17)
    second = build(by_thirds, *keys, name="cut", records=two_tasks, remote=remote)
    second.state = checkpoint.load(checkpoint.latest(first.checkpoints), second.learner)
    second.queue.load_state_dict(second.state.ahead, second.inputs.renderer)
    second.sampler.pools.load_state_dict(second.state.pools)
    second.state.ahead = []
    steps(second, 17)
    assert second.learner.updates == whole.learner.updates
    assert first.generator.calls + second.generator.calls == whole.generator.calls
    assert first.generator.seeds + second.generator.seeds == whole.generator.seeds
    assert [{k: v for k, v in row.items() if k.startswith("pool")} for row in rows] == expected


def test_an_interruption_while_sampling_draws_the_same_again(build):
    """The draws of a step that was never sampled are no past."""
    made = build(by_thirds, *POOLS)
    steps(made, 9)
    pools = made.sampler.pools
    start = pools.begin(9, 72)
    state = pools.state_dict()
    again = DifficultyPools(made.config, made.inputs.prompt_sampler)
    again.load_state_dict(state)
    assert again.begin(9, 72) == start
    assert again.state_dict() == state


def test_ranks_share_the_draws_that_one_rank_has(pools):
    made = pools("data.rest_after=1")
    counted(made, 0, **{f"r{i}": 4 for i in range(0, 64, 2)})
    start = made.begin(1, 16)
    sampler = made._sampler
    (alone,) = ([d.index for d in sampler.step(1, 16, 0, 1, start)],)
    shares = [[d.index for d in sampler.step(1, 16, rank, 2, start)] for rank in range(2)]
    assert shares == [alone[0::2], alone[1::2]]
