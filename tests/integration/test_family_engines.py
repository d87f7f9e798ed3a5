"""vLLM agrees with the learner for every family, at the start and after a weight update."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import ROOT, environment

from sapo_vl.model.families import FAMILIES

pytestmark = pytest.mark.slow

BOUNDS = {"float32": (1e-5, 1e-4), "bfloat16": (0.03, 0.2)}
"""By the engine's type, nats: the mean and the largest difference. The learner is float32."""


@pytest.fixture(scope="module")
def found(tiny_folders) -> dict[str, dict]:
    """Return the worker's figures by family; its engines run one after the other."""
    names = [name for name in FAMILIES if name != "qwen3_vl"]  # that one is the session's engine
    worker = ROOT / "tests/integration/worker_engine.py"
    done = subprocess.run(
        [sys.executable, str(worker), *map(str, map(tiny_folders, names))],
        capture_output=True,
        text=True,
        timeout=400,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    return dict(zip(names, rows, strict=True))


def test_logprobs_agree_before_and_after_updates_and_from_cached_prefixes(found):
    for name, row in found.items():
        bounds = BOUNDS[row["dtype"]]
        for moment in ("start", "cached", "updated", "updated, cached"):
            assert row[moment][0] <= bounds[0], (name, moment, row)
            assert row[moment][1] <= bounds[1], (name, moment, row)
        assert row["stale"][0] > 5 * bounds[0], (name, row)  # an update that didn't arrive shows


def test_seeds_reproduce_responses_though_prompts_do_not_fit_a_step(found):
    for name, row in found.items():
        assert row["steps' worth of prompts"] > 1.5, (name, row)
        assert row["same ids"], (name, row)


def test_only_gated_delta_nets_are_bfloat16(found):
    assert {name for name, row in found.items() if row["dtype"] == "bfloat16"} == {
        "qwen3_5",
        "qwen3_5_moe",
    }
