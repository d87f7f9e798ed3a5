"""Memory moved to the host and back: the same bits, in the same views."""

from __future__ import annotations

import pytest
import torch

from sapo_vl.learner import host_copy
from sapo_vl.learner.host_copy import HostCopy

CPU = torch.device("cpu")


@pytest.mark.parametrize("small", [2**20, 3])  # whole, and in pieces
def test_views_are_whole_again(small, monkeypatch):
    monkeypatch.setattr(host_copy, "PIECE", 16)
    monkeypatch.setattr(host_copy, "SMALL", small)
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


def test_a_kept_copy_fills_the_memory_again_and_again():
    tensor = torch.arange(4.0)
    copy = HostCopy([tensor], CPU)
    pieces = copy._pieces[0][1]
    for _ in range(2):
        copy.restore(keep=True)
        assert tensor.tolist() == [0, 1, 2, 3]
        tensor[0] = 9.0  # what is written meanwhile is lost: such tensors must not change
        copy.release()
        assert tensor.untyped_storage().nbytes() == 0
    assert copy._pieces[0][1] is pieces  # nothing was copied out again
    copy.restore()
    assert tensor.tolist() == [0, 1, 2, 3]
    assert copy._pieces == []


def test_buffers_are_powers_of_two(monkeypatch):
    """Of 96 MiB: 64 and 32. Above 256 MiB a buffer isn't larger; below 1 MiB it isn't cut."""
    mib = 2**20
    assert host_copy._sizes(96 * mib) == [64 * mib, 32 * mib]
    assert host_copy._sizes(600 * mib + 7) == [256 * mib, 256 * mib, 64 * mib, 16 * mib, 8 * mib, 7]
    assert host_copy._sizes(1000) == [1000]
    assert host_copy._sizes(0) == []


def test_what_is_elsewhere_stays():
    there = torch.empty(3, device="meta")
    here = torch.ones(3)
    copy = HostCopy([here], torch.device("meta"))
    assert copy.nbytes == 0
    copy = HostCopy([there, here], CPU)
    assert copy.nbytes == 12
    copy.restore()
    assert here.tolist() == [1, 1, 1]
