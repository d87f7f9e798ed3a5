"""Task mixtures: exact shares per mini-batch and rank, whole epochs, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from sapo_vl.errors import ConfigError
from sapo_vl.training.prompt_sampler import TaskMixture


def mixture(a, b, ratios, size, seed=1):
    return TaskMixture({"a": range(a), "b": range(b)}, ratios, size, seed)


def test_mixtures_keep_their_shares_and_visit_everything_once():
    mixed = mixture(12, 5, {"a": 3, "b": 1}, 8)
    assert mixed.places == {"a": 6, "b": 2}
    batches = [mixed.batch(number) for number in range(10)]
    for batch in batches:
        assert Counter(task for task, _ in batch) == {"a": 6, "b": 2}
    first_epoch = [index for batch in batches[:2] for task, index in batch if task == "a"]
    assert sorted(first_epoch) == list(range(12))
    of_b = [index for batch in batches[:5] for task, index in batch if task == "b"]
    assert Counter(of_b) == dict.fromkeys(range(5), 2)  # 10 draws are two epochs of 5
    assert mixture(12, 5, {"a": 3, "b": 1}, 8).batch(7) == batches[7]
    assert mixture(12, 5, {"a": 3, "b": 1}, 8, seed=2).batch(7) != batches[7]


def test_ranks_share_a_mini_batch_by_task():
    mixed = mixture(100, 100, {"a": 0.75, "b": 0.25}, 16)
    shares = [mixed.batch(3, rank, 4) for rank in range(4)]
    for share in shares:
        assert Counter(task for task, _ in share) == {"a": 3, "b": 1}
    assert sorted(draw for share in shares for draw in share) == sorted(mixed.batch(3))


def test_impossible_mixtures_are_refused():
    with pytest.raises(ConfigError, match=r"data\.ratio: .* for b:"):
        mixture(9, 9, {"a": 99, "b": 1}, 8)
    with pytest.raises(ConfigError, match=r"data\.ratio: b has 0 records"):
        mixture(9, 0, {"a": 1, "b": 1}, 8)
    with pytest.raises(ConfigError, match=r"data\.ratio: b has 9 records and ratio -1"):
        mixture(9, 9, {"a": 1, "b": -1}, 8)
