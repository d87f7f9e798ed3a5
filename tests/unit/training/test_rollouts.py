"""Rollout batches: seeds, grading, mini-batches, and the buffer of a checkpoint inside a step."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import make_sample, tiny_config

from sapo_vl.evaluation.heldout import problem_seed
from sapo_vl.learner.rows import TrainRow
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Completion, Outcome, Reward, RolloutGroup, Verdict
from sapo_vl.training import rollouts


def completion(ids: list[int], text: str = "x") -> Completion:
    logprobs = -np.arange(1, len(ids) + 1, dtype=np.float32)
    return Completion(ids, logprobs, "stop", text)


def reward(value: float, valid: bool = True) -> Reward:
    outcome = Outcome.NO_VERDICT if not valid else Outcome.CORRECT if value else Outcome.WRONG
    verdict = Verdict(outcome, value, "by hand")
    return Reward(value=value, correct=value > 0, valid=valid, terms={"boxed": verdict})


def group(prompt, advantages: list[float], valid=None, ids=None) -> RolloutGroup:
    valid = valid or [True] * len(advantages)
    ids = ids or [[i + 1, 2] for i in range(len(advantages))]
    return RolloutGroup(
        prompt,
        [completion(list(own)) for own in ids],
        [reward(float(a > 0), v) for a, v in zip(advantages, valid, strict=True)],
        np.array(advantages, dtype=np.float32),
    )


@pytest.fixture
def prompts(renderer):
    return renderer.render([make_sample([(32, 32)], seed=i, name=f"p{i}") for i in range(5)])


def test_groups_without_a_gradient_are_left_out(prompts):
    groups = [
        group(prompts[0], [0, 0]),
        group(prompts[1], [1, -1]),
        group(prompts[2], [0, 0]),
        group(prompts[3], [-1, 1]),
        group(prompts[4], [2, -2]),
    ]
    batches = rollouts.mini_batches(groups, 2)
    ids = [[row.prompt.sample.id for row in batch] for batch in batches]
    assert ids == [["p1", "p1", "p4", "p4"], ["p3", "p3"]]
    assert [row.advantage for row in batches[0]] == [1, -1, 2, -2]
    assert all(row.counts for batch in batches for row in batch)
    first = batches[0][0]
    assert first.token_ids is groups[1].completions[0].token_ids
    assert first.generator_logprobs is groups[1].completions[0].generator_logprobs


def test_a_response_without_verdict_has_no_row(prompts):
    batches = rollouts.mini_batches([group(prompts[0], [1, 0, -1], [True, False, True])], 1)
    assert [row.token_ids for row in batches[0]] == [[1, 2], [3, 2]]


def test_an_empty_mini_batch_holds_a_row_that_does_not_count(prompts):
    batches = rollouts.mini_batches([group(prompts[0], [0, 0]), group(prompts[1], [1, -1])], 3)
    assert [[row.counts for row in batch] for batch in batches] == [[True, True], [False], [False]]
    assert batches[1][0].advantage == 0
    assert rollouts.mini_batches([group(prompts[0], [0, 0])], 2)[0][0].counts is False


def test_a_group_of_masked_responses_still_gives_a_spare_row(prompts):
    batches = rollouts.mini_batches([group(prompts[0], [0, 0], [False, False])], 1)
    assert [row.counts for row in batches[0]] == [False]


def test_old_logprobs_go_back_to_their_groups(prompts):
    groups = [group(prompts[0], [1, -1]), group(prompts[1], [0, 0]), group(prompts[2], [1, -1])]
    batches = rollouts.mini_batches(groups, 2)
    for number, row in enumerate(row for batch in batches for row in batch):
        row.old_logprobs = np.full(len(row.token_ids), number, np.float32)
    rollouts.keep_old_logprobs(groups, batches)
    assert [v.tolist() for v in groups[0].old_logprobs] == [[0, 0], [1, 1]]
    assert groups[1].old_logprobs is None
    assert [v.tolist() for v in groups[2].old_logprobs] == [[2, 2], [3, 3]]


def test_pack_and_unpack_inside_a_step(prompts, renderer):
    """Two prompts share a response token by token, and each keeps its own log-probs."""
    same = [[5, 6], [7, 8]]
    groups = [group(prompts[0], [1, -1], ids=same), group(prompts[1], [-1, 1], ids=same)]
    groups.append(group(prompts[2], [0, 0]))
    batches = rollouts.mini_batches(groups, 3)  # the third holds a spare row
    assert [[row.counts for row in batch] for batch in batches] == [[True] * 2, [True] * 2, [False]]
    for number, row in enumerate(row for batch in batches[:2] for row in batch):
        row.old_logprobs = np.full(len(row.token_ids), number, np.float32)
    stored = pickle.loads(pickle.dumps(rollouts.pack(batches, groups)))
    again, restored = rollouts.unpack(stored, renderer)
    for before, after in zip(batches, again, strict=True):
        assert [r.prompt.sample for r in after] == [r.prompt.sample for r in before]
        assert [r.prompt.expanded_ids for r in after] == [r.prompt.expanded_ids for r in before]
        for a, b in zip(before, after, strict=True):
            assert (a.token_ids, a.advantage, a.counts) == (b.token_ids, b.advantage, b.counts)
            assert np.array_equal(a.generator_logprobs, b.generator_logprobs)
            assert (a.old_logprobs is None) == (b.old_logprobs is None)
    rollouts.keep_old_logprobs(restored, again)
    assert [v.tolist() for v in restored[0].old_logprobs] == [[0, 0], [1, 1]]
    assert [v.tolist() for v in restored[1].old_logprobs] == [[2, 2], [3, 3]]
    assert restored[2].old_logprobs is None
    assert [g.rewards for g in restored] == [g.rewards for g in groups]
    assert restored[0].advantages.tolist() == [1, -1]


def test_a_packed_buffer_holds_no_tensors(prompts):
    groups = [group(prompts[0], [1, -1])]
    stored = pickle.dumps(rollouts.pack(rollouts.mini_batches(groups, 1), groups))
    assert b"torch" not in stored


class Echo:
    """A generator that answers 7 where it is told to, and keeps what it was asked."""

    def generate(self, prompts, sampling, seeds):
        self.asked = (prompts, sampling, list(seeds))
        texts = ["\\boxed{7}", "\\boxed{8}", "\\boxed{8}", "\\boxed{7}"]
        return [[completion([1, 2], text) for text in texts[: sampling.n]] for _ in prompts]


def test_collect_samples_grades_and_compares(renderer, tiny_folder):
    config = tiny_config(
        tiny_folder,
        "rollout.group_size=4",
        "rollout.temperature=0.8",
        "run.seed=3",
        "rewards=[{fn: boxed, weight: 0.9}, {fn: format, weight: 0.1}]",
    )
    generator = Echo()
    samples = [make_sample(name="a"), make_sample([(32, 32)], name="b")]
    rubric = Rubric.from_terms([(t.fn, t.weight) for t in config.rewards])
    groups = rollouts.collect(generator, renderer, rubric, samples, config, step=11)
    prompts, sampling, seeds = generator.asked
    assert [prompt.sample.id for prompt in prompts] == ["a", "b"]
    assert (sampling.n, sampling.temperature, sampling.max_new_tokens) == (4, 0.8, 16)
    assert seeds == [problem_seed(3, "11:a"), problem_seed(3, "11:b")]
    for own in groups:
        assert [r.correct for r in own.rewards] == [True, False, False, True]
        assert own.advantages.tolist() == pytest.approx([1, -1, -1, 1])
    assert groups[1].prompt.sample.id == "b"


def test_parquet_holds_what_was_sampled(prompts, tmp_path):
    groups = [group(prompts[0], [1, -1]), group(prompts[1], [0, 0], [True, False])]
    groups[0].old_logprobs = [np.array([-1.5, -2.5], np.float32), np.array([-3, -4], np.float32)]
    path = tmp_path / "rollouts" / "step_000001.parquet"
    rollouts.write(path, groups)
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
    assert [p.name for p in path.parent.iterdir()] == ["step_000001.parquet"]


def test_rows_of_a_group_are_the_learners(prompts):
    (row, _) = rollouts.group_rows(group(prompts[0], [1, -1]))
    assert isinstance(row, TrainRow)
    assert row.old_logprobs is None
