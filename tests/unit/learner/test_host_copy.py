"""Memory moved to the host and back: the same bits, in the same views."""

from __future__ import annotations

import pytest
import torch

from sapo_vl.learner import host_copy
from sapo_vl.learner.host_copy import HostCopy

CPU = torch.device("cpu")


@pytest.mark.parametrize("piece", [2**28, 10])  # whole, and in pieces with a rest
def test_views_are_whole_again(piece, monkeypatch):
    monkeypatch.setattr(host_copy, "PIECE", piece)
    flat = torch.arange(12.0)
    views = [flat[:5], flat[5:].view(7, 1)]
    other = torch.tensor([1.5, -0.0], dtype=torch.bfloat16)
    before = [t.clone() for t in (*views, other)]
    copy = HostCopy([*views, flat, other, torch.empty(0)], CPU)
    assert copy.nbytes == 12 * 4 + 2 * 2  # a storage counts once
    assert flat.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 0
    copy.restore()
    for tensor, expected in zip((*views, other), before, strict=True):
        assert torch.equal(tensor, expected)
    assert torch.signbit(other[1])
    flat[6] = 77.0
    assert views[1][1, 0] == 77.0  # still one memory


def test_what_is_elsewhere_stays():
    there = torch.empty(3, device="meta")
    here = torch.ones(3)
    copy = HostCopy([here], torch.device("meta"))
    assert copy.nbytes == 0
    copy = HostCopy([there, here], CPU)
    assert copy.nbytes == 12
    copy.restore()
    assert here.tolist() == [1, 1, 1]
