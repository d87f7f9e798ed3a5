"""Mixtures: exact shares per mini-batch and rank, whole epochs, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from sapo_vl.training.mixing import Mixture, Pick

from sapo_vl.errors import ConfigError


def test_mixtures_keep_their_shares_and_visit_everything_once():
    mixture = Mixture({"a": 12, "b": 5}, {"a": 3, "b": 1}, size=8, seed=1)
    assert mixture.places == {"a": 6, "b": 2}
    batches = [mixture.batch(n) for n in range(10)]
    for batch in batches:
        assert Counter(p.source for p in batch) == {"a": 6, "b": 2}
    first_epoch = [p.index for batch in batches[:2] for p in batch if p.source == "a"]
    assert sorted(first_epoch) == list(range(12))
    of_b = [p.index for n in range(5) for p in sorted(batches[n], key=str) if p.source == "b"]
    assert Counter(of_b) == dict.fromkeys(range(5), 2)  # 10 picks are two epochs of 5
    again = Mixture({"a": 12, "b": 5}, {"a": 3, "b": 1}, size=8, seed=1)
    assert again.batch(7) == batches[7]
    assert Mixture({"a": 12, "b": 5}, {"a": 3, "b": 1}, size=8, seed=2).batch(7) != batches[7]


def test_ranks_share_a_mini_batch_by_source():
    mixture = Mixture({"a": 100, "b": 100}, {"a": 0.75, "b": 0.25}, size=16)
    shares = [mixture.batch(3, rank, 4) for rank in range(4)]
    for share in shares:
        assert Counter(p.source for p in share) == {"a": 3, "b": 1}
    whole = sorted((p.source, p.index) for share in shares for p in share)
    assert whole == sorted((p.source, p.index) for p in mixture.batch(3))
    assert isinstance(shares[0][0], Pick)


def test_mixtures_that_cannot_be():
    with pytest.raises(ConfigError, match="holds no record of b"):
        Mixture({"a": 9, "b": 9}, {"a": 99, "b": 1}, size=8)
    with pytest.raises(ConfigError, match="ratios are for"):
        Mixture({"a": 9}, {"b": 1}, size=8)
    with pytest.raises(ConfigError, match="b: 0 records"):
        Mixture({"a": 9, "b": 0}, {"a": 1, "b": 1}, size=8)
