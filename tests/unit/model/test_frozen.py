"""The digest by which frozen weights are shown to be what they were."""

from __future__ import annotations

import torch

from sapo_vl.model import weights
from sapo_vl.model.weights import FrozenWeights, checksum, frozen_weights


def by_hand(words: list[int]) -> int:
    total = 0
    for i, word in enumerate(words):
        z = word * (2 * i + 1) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        total += z ^ (z >> 31)
    total %= 2**64
    return total - 2**64 if total >= 2**63 else total


def test_checksum_by_hand(monkeypatch):
    monkeypatch.setitem(weights.CHECKSUM_WORDS, "cpu", 2)  # several blocks, the last one short
    words = [5, 0, 2**32, 2**62 + 12345, 7]
    assert checksum(torch.tensor(words)) == by_hand(words)
    assert checksum(torch.tensor([7, 9, 11], dtype=torch.int32)) == by_hand([7 + 9 * 2**32, 11])
    assert checksum(torch.tensor([-1])) == by_hand([2**64 - 1])
    assert checksum(torch.tensor([], dtype=torch.float32)) == 0


def test_any_bit_and_any_place_counts_in_the_checksum(monkeypatch):
    monkeypatch.setitem(weights.CHECKSUM_WORDS, "cpu", 4)  # several blocks, the last one short
    ones = torch.ones(37, dtype=torch.bfloat16)
    seen = {checksum(ones)}
    for i in range(37):
        for other in (-1.0, 1.0078125):  # the sign's bit, and the last one
            changed = ones.clone()
            changed[i] = other
            seen.add(checksum(changed))
        twice = ones.clone()  # two signs, which cancel out in a plain sum of words
        twice[[i, (i + 4) % 37]] = -1.0
        seen.add(checksum(twice))
    assert len(seen) == 1 + 3 * 37
    numbers = torch.arange(38, dtype=torch.bfloat16)
    assert checksum(numbers[1:]) == checksum(numbers[1:].clone())  # a view that starts mid-word
    assert checksum(numbers[1:].flip(0)) != checksum(numbers[1:])


def test_the_digest_of_frozen_weights():
    a, b = torch.ones(3, 2), torch.zeros(4)
    found = frozen_weights([("a", a), ("b", b)])
    assert found.parameters == 10
    assert found == frozen_weights([("b", b), ("a", a)])
    for others in ([("a", a)], [("a", a.T), ("b", b)], [("b", a), ("a", b)]):
        assert frozen_weights(others).digest != found.digest
    assert frozen_weights([]) == FrozenWeights(0, "")
