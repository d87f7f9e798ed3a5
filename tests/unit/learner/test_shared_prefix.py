"""The shared-prefix layout's plan and batch, by hand."""

from __future__ import annotations

import itertools

import torch
from helpers import bare_prompt
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sapo_vl.learner import attention
from sapo_vl.learner.shared_prefix import SharedPrefixLayout, packed_tokens
from sapo_vl.schema import Rollout


class AttentionSetting(nn.Module):
    """A model that keeps which attention it was told to use."""

    def set_attn_implementation(self, implementation: dict[str, str]) -> None:
        """Keep the setting."""
        self.implementation = implementation


MODEL = AttentionSetting()
LAYOUT = SharedPrefixLayout(MODEL, "cascade")


def test_the_text_layers_attend_by_shared_prefixes_and_the_vision_tower_as_before():
    assert MODEL.implementation == {"text_config": attention.NAME, "vision_config": "sdpa"}


def group(prompt: int, *responses: int) -> list[Rollout]:
    shared = bare_prompt(prompt)
    return [Rollout(shared, [1] * n, advantage=1.0) for n in responses]


def sizes(batches):
    return [[len(r.token_ids) for r in batch] for batch in batches]


def test_a_shared_prompt_counts_once_and_last_tokens_not_at_all():
    assert packed_tokens(group(10, 4, 1, 6)) == 10 + 3 + 0 + 5


def test_plan_by_hand():
    a, b, c = group(10, 4, 4), group(6, 2), group(2, 5, 2)  # 16, 7 and 2 + 4 + 1 = 7 tokens
    # first fit decreasing: a opens a batch; b and c fit into what is left of 30
    assert sizes(LAYOUT.plan([*b, *a, *c], 30)) == [[4, 4, 2, 5, 2]]
    assert sizes(LAYOUT.plan([*b, *a, *c], 23)) == [[4, 4, 2], [5, 2]]
    assert sizes(LAYOUT.plan([*b, *a, *c], 16)) == [[4, 4], [2, 5, 2]]


def test_a_long_group_is_split_and_pays_for_its_prompt_again():
    # 10 + 3 + 3 = 16 fits into 18, a third response (19) does not
    assert sizes(LAYOUT.plan(group(10, 4, 4, 4, 4, 4), 18)) == [[4, 4], [4, 4], [4]]
    assert sizes(LAYOUT.plan(group(10, 40, 4), 18)) == [[40], [4]]


def test_scattered_rollouts_of_one_prompt_are_brought_together():
    a, b = group(5, 3, 3), group(5, 2, 2)
    (batch,) = LAYOUT.plan([a[0], b[0], a[1], b[1]], 100)
    assert [r is x for r, x in zip(batch, [*a, *b], strict=True)] == [True] * 4


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.lists(st.integers(1, 30), min_size=1, max_size=6)),
        min_size=1,
        max_size=12,
    ),
    st.integers(16, 300),
    st.randoms(use_true_random=False),
)
def test_plan_covers_each_rollout_once_within_the_budget(shapes, budget, random):
    rollouts = [r for prompt, responses in shapes for r in group(prompt, *responses)]
    random.shuffle(rollouts)
    batches = LAYOUT.plan(rollouts, budget)
    flat = [r for batch in batches for r in batch]
    assert sorted(map(id, flat)) == sorted(map(id, rollouts))
    for batch in batches:
        parts = [list(g) for _, g in itertools.groupby(batch, key=lambda r: id(r.prompt))]
        assert len(batch) == 1 or sum(map(packed_tokens, parts)) <= budget
    again = LAYOUT.plan(rollouts, budget)
    assert [list(map(id, b)) for b in again] == [list(map(id, b)) for b in batches]


def test_collate_by_hand():
    """[p0 p1 p2 | a0 a1 | ] [q0 | d0]: a response's last token is not in the row."""
    p, q = bare_prompt(3), bare_prompt(1)
    p.expanded_ids, q.expanded_ids = [5, 9, 6], [7]
    p.next_position = 2  # an image's tokens share a position
    p.position_ids = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 2]])
    p.pixel_values, p.grid_thw = torch.ones(4, 6), torch.tensor([[1, 2, 2]])
    rollouts = [Rollout(p, [11, 12, 13]), Rollout(p, [14]), Rollout(q, [15, 16])]
    batch = LAYOUT.collate(rollouts, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 9, 6, 11, 12, 7, 15]]
    assert batch.position_ids[:, 0].tolist() == [
        [0, 1, 1, 2, 3, 0, 1],
        [0, 1, 1, 2, 3, 0, 1],
        [0, 1, 2, 2, 3, 0, 1],
    ]
    # a first token is predicted by its prompt's last one, once per response
    assert batch.source_N.tolist() == [2, 3, 4, 2, 5, 6]
    assert batch.targets_N.tolist() == [11, 12, 13, 14, 15, 16]
    assert batch.prefixes.group_T.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert batch.prefixes.response_T.tolist() == [0, 0, 0, 1, 1, 0, 3]
    assert batch.pixel_values.shape == (4, 6)  # the image once, for both responses
    assert batch.image_grid_thw.tolist() == [[1, 2, 2]]


def test_text_alone_has_no_pixels():
    batch = LAYOUT.collate(group(2, 1), torch.device("cpu"))
    assert batch.pixel_values is None
    assert batch.image_grid_thw is None
