"""Rollout batches: mini-batches, state in a checkpoint inside a step, replacement, parquet."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import bare_prompt, make_sample, tiny_config

from sapo_vl.algorithm.telemetry import UpdateReport, keep_token_values
from sapo_vl.generator.base import SamplingParams
from sapo_vl.generator.sampling import SampleEngine, problem_seed
from sapo_vl.rewards.rubric import Rubric, build_rubric
from sapo_vl.schema import Outcome, Prompt, Reward, Rollout, RolloutGroup, Verdict
from sapo_vl.training import rollouts
from sapo_vl.training.rollouts import (
    RolloutBatch,
    replace_groups,
    rollout_seed,
    sample_groups,
    write_parquet,
)


def reward(value: float, valid: bool = True) -> Reward:
    outcome = Outcome.NO_VERDICT if not valid else Outcome.CORRECT if value else Outcome.WRONG
    verdict = Verdict(outcome, value, "by hand")
    return Reward(value=value, correct=value > 0, valid=valid, terms={"boxed": verdict})


def group(prompt: Prompt, advantages, valid=None, ids=None, mini_batch=None) -> RolloutGroup:
    """Return a group with these advantages; a response is right where its advantage is positive."""
    valid = valid or [True] * len(advantages)
    ids = ids or [[i + 1, 2] for i in range(len(advantages))]
    rollouts = [
        Rollout(
            prompt,
            list(token_ids),
            "x",
            generator_logprobs=-np.arange(1, len(token_ids) + 1, dtype=np.float32),
            reward=reward(float(advantage > 0), has_verdict),
            advantage=float(advantage),
        )
        for token_ids, advantage, has_verdict in zip(ids, advantages, valid, strict=True)
    ]
    return RolloutGroup(prompt, rollouts, mini_batch)


@pytest.fixture
def prompts(renderer):
    return renderer.render([make_sample([(32, 32)], seed=i, name=f"p{i}") for i in range(5)])


def ids_of(batches: list[list[Rollout]]) -> list[list[str]]:
    return [[rollout.prompt.sample.id for rollout in batch] for batch in batches]


def test_groups_without_a_gradient_are_left_out(prompts):
    groups = [
        group(prompts[0], [0, 0]),
        group(prompts[1], [1, -1]),
        group(prompts[2], [0, 0]),
        group(prompts[3], [-1, 1]),
        group(prompts[4], [2, -2]),
    ]
    batches = RolloutBatch(groups, 2).mini_batches()
    assert ids_of(batches) == [["p1", "p1", "p4", "p4"], ["p3", "p3"]]
    assert [rollout.advantage for rollout in batches[0]] == [1, -1, 2, -2]
    assert not any(rollout.is_filler for batch in batches for rollout in batch)
    # the very objects: what the learner fills in is seen by the groups
    assert batches[0][0] is groups[1].rollouts[0]
    assert batches[1][1] is groups[3].rollouts[1]


def test_a_response_without_verdict_is_left_out(prompts):
    batch = RolloutBatch([group(prompts[0], [1, 0, -1], [True, False, True])], 1)
    assert [rollout.token_ids for rollout in batch.mini_batches()[0]] == [[1, 2], [3, 2]]


def test_an_empty_mini_batch_holds_a_filler(prompts):
    groups = [group(prompts[0], [0, 0]), group(prompts[1], [1, -1])]
    batches = RolloutBatch(groups, 3).mini_batches()
    assert [[r.is_filler for r in batch] for batch in batches] == [[False, False], [True], [True]]
    assert batches[1][0].advantage == 0
    assert batches[1][0].token_ids == [1, 2]
    assert not groups[0].rollouts[0].is_filler  # the filler is a copy
    alone = RolloutBatch([group(prompts[0], [0, 0])], 2).mini_batches()
    assert [[r.is_filler for r in batch] for batch in alone] == [[True], [True]]


def test_a_group_of_masked_responses_still_gives_a_filler(prompts):
    batches = RolloutBatch([group(prompts[0], [0, 0], [False, False])], 1).mini_batches()
    assert [rollout.is_filler for rollout in batches[0]] == [True]


def test_groups_stay_in_the_mini_batch_they_belong_to(prompts):
    groups = [
        group(prompts[0], [1, -1], mini_batch=1),
        group(prompts[1], [1, -1], mini_batch=1),
        group(prompts[2], [1, -1], mini_batch=0),
    ]
    batches = RolloutBatch(groups, 2).mini_batches()
    assert ids_of(batches) == [["p2", "p2"], ["p0", "p0", "p1", "p1"]]


def test_resampled_groups_take_free_places_of_their_own_mini_batch():
    def one(name: str, mini_batch: int) -> RolloutGroup:
        return RolloutGroup(bare_prompt(name=name), [], mini_batch)

    groups = [one("r0", 0), one("r1", 0), one("r2", 1), one("r3", 1)]
    replace_groups(groups, [0, 2, 3], [one("r7", 1), one("r8", 0)])
    names = [(g.prompt.sample.id, g.mini_batch) for g in groups]
    assert names == [("r8", 0), ("r1", 0), ("r7", 1), ("r3", 1)]
    with pytest.raises(AssertionError):
        replace_groups(groups, [0], [one("r9", 1)])


def test_state_survives_a_checkpoint_inside_a_step(prompts, renderer):
    """Two prompts share a response token by token, and each keeps its own log-probs."""
    same = [[5, 6], [7, 8]]
    groups = [
        group(prompts[0], [1, -1], ids=same, mini_batch=0),
        group(prompts[1], [-1, 1], ids=same, mini_batch=1),
        group(prompts[2], [0, 0], [True, False], mini_batch=2),
    ]
    batch = RolloutBatch(groups, 3)  # the third mini-batch is a filler alone
    for number, rollout in enumerate(r for g in groups[:2] for r in g.rollouts):
        rollout.old_logprobs = np.full(len(rollout.token_ids), number, np.float32)
    stored = pickle.loads(pickle.dumps(batch.state_dict()))
    again = RolloutBatch.from_state_dict(stored, renderer)
    assert again.num_mini_batches == 3
    assert [g.mini_batch for g in again.groups] == [0, 1, 2]
    for before, after in zip(groups, again.groups, strict=True):
        assert after.prompt.sample == before.prompt.sample
        assert after.prompt.expanded_ids == before.prompt.expanded_ids
        assert after.prompt.pixel_values.equal(before.prompt.pixel_values)
        assert len(after.rollouts) == len(before.rollouts)
        for a, b in zip(before.rollouts, after.rollouts, strict=True):
            assert b.prompt is after.prompt  # shared, so that the layout computes it once
            assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
            assert (a.advantage, a.reward) == (b.advantage, b.reward)
            assert np.array_equal(a.generator_logprobs, b.generator_logprobs)
    old = [[r.old_logprobs for r in g.rollouts] for g in again.groups]
    assert [v.tolist() for v in old[0]] == [[0, 0], [1, 1]]
    assert [v.tolist() for v in old[1]] == [[2, 2], [3, 3]]
    assert old[2] == [None, None]
    cut, reference = again.mini_batches(), batch.mini_batches()
    assert ids_of(cut) == ids_of(reference)
    assert [[r.is_filler for r in b] for b in cut] == [[False] * 2, [False] * 2, [True]]


def test_state_holds_no_tensors(prompts):
    stored = pickle.dumps(RolloutBatch([group(prompts[0], [1, -1])], 1).state_dict())
    assert b"torch" not in stored


class Echo:
    """A generator that answers 7 where it is told to, and keeps what it was asked."""

    def generate(self, requests):
        self.asked = requests
        texts = ["\\boxed{7}", "\\boxed{8}", "\\boxed{8}", "\\boxed{7}"]
        return [[Rollout(r.prompt, [1, 2], t) for t in texts[: r.params.n]] for r in requests]


@pytest.mark.parametrize(("normalize", "advantages"), [(True, 1.0), (False, 0.45)])
def test_groups_are_sampled_graded_and_compared(renderer, tiny_folder, normalize, advantages):
    config = tiny_config(
        tiny_folder, "rewards=[{fn: boxed, weight: 0.9}, {fn: format, weight: 0.1}]"
    )
    generator = Echo()
    samples = [make_sample(name="a"), make_sample([(32, 32)], name="b")]
    params = SamplingParams(4, 0.8, 16)
    engine = SampleEngine(generator, renderer, build_rubric(config))
    prompts = renderer.render(samples)
    groups = sample_groups(engine, prompts, params, [5, 6], normalize=normalize)
    assert [request.prompt.sample.id for request in generator.asked] == ["a", "b"]
    assert [request.params for request in generator.asked] == [params, params]
    assert [request.seed for request in generator.asked] == [5, 6]
    for one in groups:
        assert [r.verdict.correct for r in one.rollouts] == [True, False, False, True]
        # rewards 0.9 and 0: mean 0.45, standard deviation 0.45
        expected = [advantages, -advantages, -advantages, advantages]
        assert [r.advantage for r in one.rollouts] == pytest.approx(expected)
        assert one.mini_batch is None
    assert groups[1].prompt.sample.id == "b"


def test_a_response_without_verdict_is_compared_with_nothing(renderer):
    class HalfBlind(Rubric):
        """Gives no verdict about a prompt's first response."""

        def __init__(self) -> None:
            """Need nothing."""

        def grade(self, pairs, lengths=None):
            return [reward(float("7" in t), i > 0) for i, (_, t) in enumerate(pairs)]

    engine = SampleEngine(Echo(), renderer, HalfBlind())
    params = SamplingParams(3, 1.0, 16)
    prompts = renderer.render([make_sample()])
    (one,) = sample_groups(engine, prompts, params, [0], normalize=True)
    assert [r.advantage for r in one.rollouts] == [0, 0, 0]  # of what is left both are wrong
    assert not one.has_gradient


def test_parquet_holds_what_was_sampled(prompts, tmp_path):
    groups = [group(prompts[0], [1, -1]), group(prompts[1], [0, 0], [True, False])]
    for rollout, old in zip(groups[0].rollouts, ([-1.5, -2.5], [-3, -4]), strict=True):
        rollout.old_logprobs = np.array(old, np.float32)
    path = tmp_path / "rollouts" / "step_000001.parquet"
    write_parquet(path, groups)
    rows = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == ["p0", "p0", "p1", "p1"]
    assert rows[0]["images"] == [prompts[0].sample.images[0]]
    assert rows[1]["images"] == []
    assert [row["advantage"] for row in rows] == [1, -1, 0, 0]
    assert [row["valid"] for row in rows] == [True, True, True, False]
    assert [row["correct"] for row in rows] == [True, False, False, False]
    assert rows[0]["generator_logprobs"] == [-1, -2]
    assert rows[0]["old_logprobs"] == [-1.5, -2.5]
    assert rows[2]["old_logprobs"] is None
    assert rows[1]["token_ids"] == [2, 2]
    assert json.loads(rows[0]["verdicts"]) == {"boxed": ["correct", 1.0, "by hand"]}
    assert [row["group"] for row in rows] == [0, 0, 1, 1]
    assert [row["tokens"] for row in rows] == [2, 2, 2, 2]
    assert [row["mean_logprob"] for row in rows] == [-1.5] * 4
    assert [row["largest_mismatch"] for row in rows] == [0.5, 2.0, None, None]
    assert [row["largest_log_ratio"] for row in rows] == [None] * 4
    assert rows[0]["gate_weights"] is None
    assert [p.name for p in path.parent.iterdir()] == ["step_000001.parquet"]


def test_a_record_drawn_again_in_a_step_has_another_seed():
    """The first draw's seed never changes: published runs depend on it."""
    assert rollout_seed(3, 11, "a") == problem_seed(3, "11:a")
    seeds = {rollout_seed(3, 11, "a", copy) for copy in range(50)}
    assert len(seeds) == 50


def test_parquet_holds_the_updates_values_by_token(prompts, tmp_path):
    one = group(prompts[0], [1, -1], ids=[[1, 2, 3], [4, 2]])
    keep_token_values(
        UpdateReport(
            list(reversed(one.rollouts)),  # the order of micro-batches is the layout's
            gate_weight_T=np.array([1, 0.5, 0.25, 0.75, 1], np.float32),
            log_ratio_T=np.array([0, 1, -3, 2, np.nan], np.float32),
            entropy_T=np.array([5, 4, 3, 2, 1], np.float32),
        )
    )
    path = tmp_path / "step_000001.parquet"
    write_parquet(path, [one])
    first, second = pq.read_table(path).to_pylist()
    assert first["gate_weights"] == [0.25, 0.75, 1]
    assert first["log_ratios"][:2] == [-3, 2]
    assert np.isnan(first["log_ratios"][2])
    assert first["entropies"] == [3, 2, 1]
    assert (second["gate_weights"], second["log_ratios"]) == ([1, 0.5], [0, 1])
    assert second["largest_log_ratio"] == 1


def test_a_group_lies_in_one_row_group_of_the_file(prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "ROW_GROUP_TOKENS", 5)  # groups of 4 tokens: two, then one
    groups = [group(prompt, [1, -1]) for prompt in prompts[:3]]
    write_parquet(tmp_path / "step_000001.parquet", groups)
    file = pq.ParquetFile(tmp_path / "step_000001.parquet")
    parts = [file.read_row_group(i)["group"].to_pylist() for i in range(file.num_row_groups)]
    assert parts == [[0, 0, 1, 1], [2, 2]]
