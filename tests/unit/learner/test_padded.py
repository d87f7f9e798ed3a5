"""The padded layout's plan and batch, by hand."""

from __future__ import annotations

import itertools

import torch
from helpers import bare_prompt
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.learner.padded import PaddedLayout
from sapo_vl.schema import Rollout

IMAGE, PAD = 9, 0
LAYOUT = PaddedLayout(image_token_id=IMAGE, pad_id=PAD)


def rollout(prompt: int, response: int) -> Rollout:
    return Rollout(bare_prompt(prompt), [1] * response, advantage=1.0)


def lengths(batches: list[list[Rollout]]) -> list[list[int]]:
    return [[r.length for r in batch] for batch in batches]


def test_length_is_prompt_and_response():
    assert rollout(5, 3).length == 8


def test_plan_by_hand():
    rollouts = [rollout(2, 2), rollout(8, 2), rollout(4, 1), rollout(3, 1)]  # lengths 4, 10, 5, 4
    # 10 alone (2 x 10 > 15); then 5, 4, 4 padded to 5: 3 x 5 = 15 fits
    assert lengths(LAYOUT.plan(rollouts, 15)) == [[10], [5, 4, 4]]
    assert lengths(LAYOUT.plan(rollouts, 14)) == [[10], [5, 4], [4]]
    assert lengths(LAYOUT.plan(rollouts, 40)) == [[10, 5, 4, 4]]


def test_equal_lengths_keep_their_order():
    rollouts = [rollout(4, 1) for _ in range(5)]
    batches = LAYOUT.plan(rollouts, 10)
    flat = [r for batch in batches for r in batch]
    assert [len(b) for b in batches] == [2, 2, 1]
    assert all(a is b for a, b in zip(flat, rollouts, strict=True))


def test_a_rollout_beyond_the_budget_has_a_batch_of_its_own():
    assert lengths(LAYOUT.plan([rollout(3, 1), rollout(90, 10)], 16)) == [[100], [4]]


def test_no_rollouts_no_batches():
    assert LAYOUT.plan([], 100) == []


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(16, 300),
)
def test_plan_covers_each_rollout_once_within_the_budget(shapes, budget):
    rollouts = [rollout(p, r) for p, r in shapes]
    batches = LAYOUT.plan(rollouts, budget)
    flat = [r for batch in batches for r in batch]
    assert sorted(map(id, flat)) == sorted(map(id, rollouts))
    assert [r.length for r in flat] == sorted((r.length for r in rollouts), reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(r.length for r in batch) <= budget
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * batch[0].length > budget, (batch, following)


def test_collate_by_hand():
    """Two rollouts of 3 + 2 and 1 + 1 tokens; an image's id in a response is no image."""
    long, short = bare_prompt(3), bare_prompt(1)
    long.expanded_ids, short.expanded_ids = [5, IMAGE, 6], [7]
    long.next_position = 2  # an image's tokens share a position
    long.position_ids = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 2]])
    long.pixel_values, long.grid_thw = torch.ones(4, 6), torch.tensor([[1, 2, 2]])
    batch = LAYOUT.collate([Rollout(long, [IMAGE, 4]), Rollout(short, [8])], torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, IMAGE, 6, IMAGE, 4], [7, 8, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.mm_token_type_ids.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert batch.position_ids[:, 0].tolist() == [
        [0, 1, 1, 2, 3],
        [0, 1, 1, 2, 3],
        [0, 1, 2, 2, 3],
    ]
    assert batch.position_ids[:, 1].tolist() == [[0, 1, 0, 0, 0]] * 3
    assert (batch.row_N.tolist(), batch.column_N.tolist()) == ([0, 0, 1], [2, 3, 0])
    assert batch.targets_N.tolist() == [IMAGE, 4, 8]
    assert batch.pixel_values.shape == (4, 6)
    assert batch.image_grid_thw.tolist() == [[1, 2, 2]]


def test_text_alone_has_no_pixels():
    batch = LAYOUT.collate([rollout(2, 1)], torch.device("cpu"))
    assert batch.pixel_values is None
    assert batch.image_grid_thw is None
