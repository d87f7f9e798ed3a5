"""The cores that an optimizer on the CPU steps on, and the same step on one or two of them."""

from __future__ import annotations

import os

import pytest
import torch
from helpers import tiny_config

from sapo_vl.learner import optimizer
from sapo_vl.learner.optimizer import all_cores, build_optimizer
from sapo_vl.system import distributed


@pytest.fixture
def threads(monkeypatch):
    """Stand in for torch's number of threads; vLLM's engine makes setting it a no-op on a CPU."""
    calls = [1]
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: calls[-1])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)))
    return calls


def options(tmp_path, *overrides):
    return tiny_config(tmp_path, "learner.zero_stage=2", *overrides).learner


def on(monkeypatch, device: str) -> None:
    monkeypatch.setattr(optimizer.distributed, "device", lambda: torch.device(device))


def test_an_offloaded_optimizer_has_the_ranks_share_of_the_cores(threads, tmp_path, monkeypatch):
    on(monkeypatch, "cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")

    def failing_step() -> None:
        with all_cores(options(tmp_path, "learner.offload_optimizer=true")):
            assert torch.get_num_threads() == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_step()
    assert threads == [1, 4, 1]


def test_any_other_optimizer_leaves_the_threads_alone(threads, tmp_path, monkeypatch):
    on(monkeypatch, "cuda")
    with all_cores(options(tmp_path)):
        assert threads == [1]
    on(monkeypatch, "cpu")
    with all_cores(options(tmp_path, "learner.offload_optimizer=true")):
        assert threads == [1]


@pytest.mark.parametrize(("cores", "ranks", "share"), [(16, 1, 16), (16, 3, 5), (2, 8, 1)])
def test_cores_of_a_rank(cores, ranks, share, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert distributed.cores_per_rank() == share


def test_the_step_has_the_same_bits_on_two_threads(tmp_path):
    results = []
    before = torch.get_num_threads()
    for count in (1, 2):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 200_001))
        adam = build_optimizer([weight], tiny_config(tmp_path, "learner.zero_stage=2"))
        torch.set_num_threads(count)
        try:
            for step in range(3):
                weight.grad = torch.sin(weight.detach() * (step + 1))
                adam.step()
        finally:
            torch.set_num_threads(before)
        results.append(weight.detach())
    assert torch.equal(*results)
    assert not torch.equal(results[0], torch.linspace(-1, 1, 200_001))
