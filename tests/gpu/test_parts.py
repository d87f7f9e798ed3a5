"""The parts of scripts/gpu_check.sh, one test each; skipped, with the reason, where they can't run.

`bash scripts/gpu_check.sh` runs the same and prints a table of figures.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch
from bench import random_model
from gpu_check import runner
from gpu_check.outcome import FAILED, Setting, table
from gpu_check.parts import PARTS

from sapo_vl.system.machine import gpu_count

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    if not gpu_count():
        pytest.skip("needs an NVIDIA GPU")
    folder = tmp_path_factory.mktemp("gpu_check")
    random_model.build(folder / "model", random_model.FOUR_LAYERS, torch.device("cpu"))
    modules = frozenset(name for name in runner.NAMES if find_spec(name) is not None)
    return Setting("cuda", gpu_count(), folder, modules)


@pytest.mark.parametrize("name", PARTS)
def test_part(name, setting, monkeypatch):
    reason = runner.reason_to_skip(PARTS[name], setting, named=False)
    if reason is not None:
        pytest.skip(reason)
    scripts = os.path.dirname(os.path.dirname(runner.__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([scripts, os.environ.get("PYTHONPATH", "")]))
    outcomes = runner.run(name, PARTS[name], setting)
    assert outcomes, "no check ran"
    failed = [outcome for outcome in outcomes if outcome.result == FAILED]
    assert not failed, table([(name, outcome) for outcome in failed])
