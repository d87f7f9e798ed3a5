"""The plans of micro-batches: every row once, within the budget, largest first."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.learner.rows import TrainRow, filler, plan_padded, plan_shared, shared_tokens


def row(prompt: int, response: int) -> TrainRow:
    return TrainRow(SimpleNamespace(expanded_ids=[0] * prompt), [1] * response, advantage=1.0)


def lengths(batches):
    return [[r.length for r in batch] for batch in batches]


def test_length_is_prompt_and_response():
    assert row(5, 3).length == 8


def test_plan_by_hand():
    rows = [row(2, 2), row(8, 2), row(4, 1), row(3, 1)]  # lengths 4, 10, 5, 4
    # 10 alone (2 x 10 > 15); then 5, 4, 4 padded to 5: 3 x 5 = 15 fits
    assert lengths(plan_padded(rows, 15)) == [[10], [5, 4, 4]]
    assert lengths(plan_padded(rows, 14)) == [[10], [5, 4], [4]]
    assert lengths(plan_padded(rows, 40)) == [[10, 5, 4, 4]]


def test_equal_lengths_keep_their_order():
    rows = [row(4, 1) for _ in range(5)]
    batches = plan_padded(rows, 10)
    flat = [r for batch in batches for r in batch]
    assert [len(b) for b in batches] == [2, 2, 1]
    assert all(a is b for a, b in zip(flat, rows, strict=True))


def test_a_row_beyond_the_budget_has_a_batch_of_its_own():
    assert lengths(plan_padded([row(3, 1), row(90, 10)], 16)) == [[100], [4]]


def test_no_rows_no_batches():
    assert plan_padded([], 100) == []


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(16, 300),
)
def test_plan_covers_each_row_once_within_the_budget(shapes, budget):
    rows = [row(p, r) for p, r in shapes]
    batches = plan_padded(rows, budget)
    flat = [r for batch in batches for r in batch]
    assert sorted(map(id, flat)) == sorted(map(id, rows))
    assert [r.length for r in flat] == sorted((r.length for r in rows), reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(r.length for r in batch) <= budget
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * batch[0].length > budget, (batch, following)


def group(prompt: int, *responses: int) -> list[TrainRow]:
    shared = SimpleNamespace(expanded_ids=[0] * prompt)
    return [TrainRow(shared, [1] * n, advantage=1.0) for n in responses]


def sizes(batches):
    return [[len(r.token_ids) for r in batch] for batch in batches]


def test_a_shared_prompt_counts_once_and_last_tokens_not_at_all():
    assert shared_tokens(group(10, 4, 1, 6)) == 10 + 3 + 0 + 5


def test_plan_shared_by_hand():
    a, b, c = group(10, 4, 4), group(6, 2), group(2, 5, 2)  # 16, 7 and 2 + 4 + 1 = 7 tokens
    # first fit decreasing: a opens a batch; b and c fit into what is left of 30
    assert sizes(plan_shared([*b, *a, *c], 30)) == [[4, 4, 2, 5, 2]]
    assert sizes(plan_shared([*b, *a, *c], 23)) == [[4, 4, 2], [5, 2]]
    assert sizes(plan_shared([*b, *a, *c], 16)) == [[4, 4], [2, 5, 2]]


def test_a_long_group_is_split_and_pays_for_its_prompt_again():
    # 10 + 3 + 3 = 16 fits into 18, a third response (19) does not
    assert sizes(plan_shared(group(10, 4, 4, 4, 4, 4), 18)) == [[4, 4], [4, 4], [4]]
    assert sizes(plan_shared(group(10, 40, 4), 18)) == [[40], [4]]


def test_scattered_rows_of_one_prompt_are_brought_together():
    a, b = group(5, 3, 3), group(5, 2, 2)
    (batch,) = plan_shared([a[0], b[0], a[1], b[1]], 100)
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
def test_plan_shared_covers_each_row_once_within_the_budget(shapes, budget, random):
    rows = [r for prompt, responses in shapes for r in group(prompt, *responses)]
    random.shuffle(rows)
    batches = plan_shared(rows, budget)
    flat = [r for batch in batches for r in batch]
    assert sorted(map(id, flat)) == sorted(map(id, rows))
    for batch in batches:
        parts = [list(g) for _, g in itertools.groupby(batch, key=lambda r: id(r.prompt))]
        assert len(batch) == 1 or sum(map(shared_tokens, parts)) <= budget
    again = plan_shared(rows, budget)
    assert [list(map(id, b)) for b in again] == [list(map(id, b)) for b in batches]


def test_the_filler_is_the_shortest_row_and_does_not_count():
    rows = [row(9, 3), row(2, 3), row(4, 4)]
    spare = filler(rows)
    assert spare.length == 5
    assert spare.prompt is rows[1].prompt
    assert not spare.counts
    assert rows[1].counts
