"""Prompts rendered in the background are those that rendering at once gives."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from helpers import make_sample

from sapo_vl.errors import DataError
from sapo_vl.model import render_ahead
from sapo_vl.model.prompts import Rendered
from sapo_vl.model.render_ahead import RenderAhead


class RecordingRenderer:
    """Returns samples as prompts; faults are negative numbers. Keeps the calling threads."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, list[int]]] = []

    def render_usable(self, samples) -> Rendered:
        """Return numbers that are not negative."""
        main = threading.current_thread() is threading.main_thread()
        self.calls.append((main, list(samples)))
        faults = {i: DataError(f"record {n}") for i, n in enumerate(samples) if n < 0}
        return Rendered([n for n in samples if n >= 0], faults)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(render_ahead, "LEAST_SAMPLES", 2)


def test_parts_come_back_in_order_with_faults_at_their_places(small_parts):
    renderer = RecordingRenderer()
    ahead = RenderAhead(renderer, [10, -11, 12, 13, -14, 15, 16], threads=3)
    ahead.start([6, 5, 4, 3, 2, 1, 0])
    prompts, faults = ahead.take([6, 5, 4, 3, 2, 1, 0])
    assert prompts == [16, 15, 13, 12, 10]
    assert {i: str(fault) for i, fault in faults.items()} == {2: "record -14", 5: "record -11"}
    parts = sorted(part for _, part in renderer.calls)
    assert parts == [[10], [13, 12, -11], [16, 15, -14]]
    assert not any(main for main, _ in renderer.calls)


def test_what_was_not_started_is_rendered_at_once():
    renderer = RecordingRenderer()
    ahead = RenderAhead(renderer, [10, 11, 12], threads=1)
    assert ahead.take([0, 2]) == Rendered([10, 12], {})
    ahead.start([0, 1])
    assert ahead.take([1, 0]) == Rendered([11, 10], {})  # another order is another step
    assert ahead.take([0, 1]) == Rendered([10, 11], {})  # what was started is dropped
    assert [main for main, part in renderer.calls if part != [10, 11]] == [True, True]


def test_seconds_are_counted_and_reset():
    ahead = RenderAhead(RecordingRenderer(), [1, 2], threads=1)
    ahead.start([0, 1])
    ahead.take([0, 1])
    laps = ahead.laps()
    assert laps.keys() == {"render", "render_wait"}
    assert all(seconds > 0 for seconds in laps.values())
    assert ahead.laps() == {"render": 0.0, "render_wait": 0.0}
    ahead.take([0])
    assert ahead.laps()["render"] == 0  # not hidden


def test_a_sample_that_cannot_be_read_is_an_error_of_the_taker():
    class Broken(list):
        def __getitem__(self, index):
            raise DataError("train-00000.parquet: damaged")

    ahead = RenderAhead(RecordingRenderer(), Broken([1]), threads=1)
    ahead.start([0])
    with pytest.raises(DataError, match="damaged"):
        ahead.take([0])


def test_prompts_are_the_same_to_the_bit(renderer, small_parts):
    samples = [make_sample([(40 + i, 64), (32, 32)][: i % 3], name=f"s{i}") for i in range(9)]
    samples[4] = replace(samples[4], images=(samples[4].images[0][:60],))
    expected = renderer.render_usable(samples)
    ahead = RenderAhead(renderer, samples, threads=4)
    for _ in range(3):
        ahead.start(range(9))
        prompts, faults = ahead.take(range(9))
        assert faults.keys() == expected.faults.keys() == {4}
        for ours, theirs in zip(prompts, expected.prompts, strict=True):
            assert ours.sample is theirs.sample
            assert ours.expanded_ids == theirs.expanded_ids
            if theirs.pixel_values is not None:
                assert torch.equal(ours.pixel_values, theirs.pixel_values)
