"""The laboratory's cells: what each sets, and how a sampler's weights are disturbed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sapo_vl import config as configs
from sapo_vl.errors import ConfigError
from sapo_vl.lab import grids, runner, worker
from sapo_vl.lab.grids import GRIDS, Cell, Setting
from sapo_vl.lab.mismatch import Disturbed
from sapo_vl.runs.files import write_json


class Holder:
    """A generator that keeps the weights it is given."""

    def update_weights(self, weights):
        """Keep them."""
        self.weights = dict(weights)


def disturbed(kind: str, tensor: torch.Tensor, times: int = 1, seed: int = 0) -> torch.Tensor:
    holder = Holder()
    front = Disturbed(holder, kind, seed)
    for _ in range(times):
        front.update_weights([("w", tensor)])
    return holder.weights["w"]


def test_bfloat16_keeps_eight_bits():
    # 1 + 2^-9 lies between 1 and 1 + 2^-7 and is rounded to 1
    out = disturbed("bfloat16", torch.tensor([1 + 2**-9, 1 + 2**-7]))
    assert out.tolist() == [1, 1 + 2**-7]
    assert out.dtype == torch.float32


def test_float8_keeps_four_bits_of_a_scaled_tensor():
    # the largest, 448 after scaling by 1, is exact; 17 lies between 16 and 18; 0.5 is exact
    assert disturbed("float8", torch.tensor([448.0, 16.9, 17.1, 0.5])).tolist() == [
        448,
        16,
        18,
        0.5,
    ]
    out = disturbed("float8", torch.tensor([4.48, 0.169]))
    torch.testing.assert_close(out, torch.tensor([4.48, 0.16]))
    assert disturbed("float8", torch.zeros(3)).tolist() == [0, 0, 0]


def test_noise_is_relative_new_each_time_and_repeatable():
    ones = torch.ones(20_000)
    first, second = disturbed("noise0.05", ones), disturbed("noise0.05", ones, times=2)
    assert first.std().item() == pytest.approx(0.05, rel=0.03)
    assert first.mean().item() == pytest.approx(1, abs=2e-3)
    assert not torch.equal(first, second)
    assert torch.equal(first, disturbed("noise0.05", ones))
    assert not torch.equal(first, disturbed("noise0.05", ones, seed=1))
    assert disturbed("noise0.05", torch.zeros(5)).tolist() == [0] * 5


def test_an_unknown_disturbance_is_refused():
    with pytest.raises(ConfigError, match="float4"):
        Disturbed(Holder(), "float4", 0)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_is_a_valid_configuration_of_its_own(grid, tmp_path):
    cells = grids.cells([grid], [0])
    assert len({cell.name for cell in cells}) == len(cells) == len(GRIDS[grid][1]())
    for cell in cells:
        (cell.warm_up(tmp_path) / "data-seed0-1-1").mkdir(parents=True, exist_ok=True)
        keys = worker.cell_overrides(cell, tmp_path, 7)
        config = configs.load(worker.MAIN, keys)
        assert config.rollout.steps == 7
        assert config.learner.lr == cell.setting.lr
        assert config.sapo.mini_batches == cell.setting.updates
        assert config.objective == cell.setting.objective
        assert (config.sapo.mismatch_cap is None) == (not cell.setting.correction)
        assert config.sft.steps == 0
        assert cell.describe()["settings"]["lr"] == cell.setting.lr


def test_grids_hold_what_they_say():
    count = {name: len(make()) for name, (_, make) in GRIDS.items()}
    assert count == {"a": 23, "b": 8, "c": 8, "d": 6, "e": 4, "f": 6, "g": 4}
    assert {s.arm for s in GRIDS["a"][1]()} == {"sapo", "grpo", "gspo", "no gate"}
    assert {s.tau_neg for s in GRIDS["b"][1]()} == {0.5, 0.95, 1.0, 1.05, 2.0, 2.1, 4.2, 8.4}


def test_a_setting_that_another_grid_has_run_is_taken_over(tmp_path):
    a, b = Cell("a", Setting(), 0), Cell("b", Setting(), 0)
    other = Cell("b", replace(Setting(), tau_neg=2.0), 0)
    place = tmp_path / "cells" / a.name
    place.mkdir(parents=True)
    write_json(place / "result.json", {"cell": a.describe(), "seconds": 3.0})
    assert runner._todo([a, b, other], tmp_path) == [other]
    taken = json.loads((tmp_path / "cells" / b.name / "result.json").read_text())
    assert taken["cell"]["grid"] == "b"
    assert taken["seconds"] == 3.0
