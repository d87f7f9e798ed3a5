"""Blocks of ranks, without ranks: the process groups they would make."""

from __future__ import annotations

import pytest

from sapo_vl.system import distributed


@pytest.fixture(autouse=True)
def fresh_blocks():
    """Forget the groups of other tests, and leave none behind."""
    distributed._block.cache_clear()
    yield
    distributed._block.cache_clear()


@pytest.mark.parametrize("rank", range(8))
def test_a_block_gathers_among_its_own_ranks(monkeypatch, rank):
    """Rank r of 8 holds r items; blocks of 4 are ranks 0-3 and 4-7, made by every rank in order."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "8")
    made: list[list[int]] = []

    def new_group(ranks, **_):
        made.append(ranks)
        return tuple(ranks)

    def all_gather_object(parts, own, group):
        assert own == [f"{rank}:{i}" for i in range(rank)]
        parts[:] = [[f"{r}:{i}" for i in range(r)] for r in group]

    monkeypatch.setattr(distributed.dist, "new_group", new_group)
    monkeypatch.setattr(distributed.dist, "all_gather_object", all_gather_object)
    first = rank // 4 * 4
    for _ in range(2):
        items, offset = distributed.all_gather_block([f"{rank}:{i}" for i in range(rank)], 4)
        assert items == [f"{r}:{i}" for r in range(first, first + 4) for i in range(r)]
        assert offset == sum(range(first, rank))
    assert made == [[0, 1, 2, 3], [4, 5, 6, 7]]  # once, whatever the number of calls


def test_one_rank_gathers_nothing():
    assert distributed.all_gather_block([1, 2], 1) == ([1, 2], 0)
    assert distributed.all_gather_block([1, 2], 4) == ([1, 2], 0)  # one process, an engine of 4
