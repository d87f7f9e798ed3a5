"""The lab's cells: the configuration of each, and results taken over from equal cells."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sapo_vl.algorithm.objectives import resolve
from sapo_vl.config import load
from sapo_vl.lab import grids, runner, worker
from sapo_vl.lab.grids import GRIDS, Cell, Setting
from sapo_vl.runs.files import write_json


@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_is_a_valid_configuration_of_its_own(grid, tmp_path):
    cells = grids.cells([grid], [0])
    assert len({cell.name for cell in cells}) == len(cells) == len(GRIDS[grid][1]())
    for cell in cells:
        (cell.warm_up(tmp_path) / "data-seed0-1-1").mkdir(parents=True, exist_ok=True)
        keys = worker.cell_overrides(cell, tmp_path, 7)
        config = load(worker.MAIN, keys)
        assert config.rollout.steps == 7
        assert config.learner.lr == cell.setting.lr
        assert config.algorithm.num_mini_batches == cell.setting.updates
        assert config.objective == cell.setting.objective
        assert config.learner.max_grad_norm == 0
        if cell.setting.objective == "sapo":
            assert resolve(config).objective_options == {
                key: getattr(cell.setting, key) for key in ("tau_pos", "tau_neg", "gate")
            }
        assert config.sft.steps == 0
        assert cell.describe()["settings"]["lr"] == cell.setting.lr


def test_grids_hold_what_they_say():
    count = {name: len(make()) for name, (_, make) in GRIDS.items()}
    assert count == {"a": 23, "b": 8, "g": 4}
    assert {s.arm for s in GRIDS["a"][1]()} == {"sapo", "grpo", "gspo", "no gate"}
    assert {s.tau_neg for s in GRIDS["b"][1]()} == {0.5, 0.95, 1.0, 1.05, 2.0, 2.1, 4.2, 8.4}


def test_a_setting_that_another_grid_has_run_is_taken_over(tmp_path):
    a, b = Cell("a", Setting(), 0), Cell("b", Setting(), 0)
    other = Cell("b", replace(Setting(), tau_neg=2.0), 0)
    place = tmp_path / "cells" / a.name
    write_json(place / "result.json", {"cell": a.describe(), "seconds": 3.0})
    assert runner.missing_cells([a, b, other], tmp_path) == [other]
    taken = json.loads((tmp_path / "cells" / b.name / "result.json").read_text())
    assert taken["cell"]["grid"] == "b"
    assert taken["seconds"] == 3.0
