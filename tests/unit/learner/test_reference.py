"""The reference's weights take the parameters' place and go back: bit for bit, whatever happens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapo_vl.learner import host_copy
from sapo_vl.learner.reference import ReferenceWeights


@pytest.mark.parametrize("small", [2**20, 3])  # whole, and in pieces
def test_weights_and_copy_change_places(small, monkeypatch):
    monkeypatch.setattr(host_copy, "PIECE", 8)
    monkeypatch.setattr(host_copy, "SMALL", small)
    full = nn.Parameter(torch.tensor([[1.5, -0.0], [2.0, 3.0]]))
    half = nn.Parameter(torch.tensor([7.0, 8.0, 9.0], dtype=torch.bfloat16))
    empty = nn.Parameter(torch.empty(0))
    released = []
    reference = ReferenceWeights([full, half, empty], lambda: released.append(full.tolist()))
    assert reference.nbytes == 4 * 4 + 3 * 2
    with torch.no_grad():
        full.mul_(10)
        half.zero_()
    for _ in range(2):
        with reference.awake():
            assert full.tolist() == [[1.5, 0.0], [2.0, 3.0]]
            assert torch.signbit(full[0, 1])
            assert half.tolist() == [7, 8, 9]
        assert full.tolist() == [[15, 0], [20, 30]]
        assert half.tolist() == [0, 0, 0]
    # what ZeRO-3 has gathered is given up before each change
    assert released == [[[15, 0], [20, 30]], [[1.5, 0], [2, 3]]] * 2


def test_an_error_meanwhile_does_not_leave_the_reference_in_place():
    weight = nn.Parameter(torch.ones(2))
    reference = ReferenceWeights([weight], lambda: None)
    weight.data.fill_(5)

    def score() -> None:
        with reference.awake():
            assert weight.tolist() == [1, 1]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        score()
    assert weight.tolist() == [5, 5]


def test_of_a_sharded_parameter_the_shard_counts_wherever_its_memory_is_now():
    weight = nn.Parameter(torch.empty(0))
    weight.ds_tensor = torch.tensor([1.0, 2.0])
    reference = ReferenceWeights([weight], lambda: None)
    weight.ds_tensor.data = torch.tensor([3.0, 4.0])  # as loading a checkpoint does
    with reference.awake():
        assert weight.ds_tensor.tolist() == [1, 2]
    assert weight.ds_tensor.tolist() == [3, 4]
