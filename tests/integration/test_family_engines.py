"""vLLM and the learner agree for every family, before and after updates and on an exported model.

`scripts/families.sh` runs the smoke job of every family; here it runs for Qwen3.5 alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment, tiny_config

from sapo_vl.model.families import FAMILIES
from sapo_vl.training.plan.engine import engine_memory
from sapo_vl.training.plan.hardware import cpu
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.shape import model_shape
from sapo_vl.training.plan.workload import workload

pytestmark = pytest.mark.slow

BOUNDS = {"float32": (1e-5, 1e-4), "bfloat16": (0.03, 1.0)}
"""By the engine's type, nats: the mean and the largest difference. The learner is float32.

In bfloat16 a token may go to another expert, which alone makes differences of 0.4.
"""


SMALLER = (
    "data.synthetic_train=120",
    "data.synthetic_test=24",
    "sft.steps=4",
    "rollout.prompts=8",
    "evaluation.problems=12",
    "evaluation.samples=2",
    "generator.max_model_len=512",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return the folder of a finished smoke job on the tiny Qwen3.5."""
    run = tmp_path_factory.mktemp("hybrid") / "run"
    keys = ["model.path=tiny:qwen3_5", f"run.dir={run}", *SMALLER]
    smoke = ROOT / "configs/train/smoke.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "sapo_vl.cli", "train", "--config", str(smoke), *keys],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (run / "stdout").write_text(done.stdout)
    return run


@pytest.fixture(scope="module")
def found(tiny_folders, run) -> dict[str, dict]:
    """Return the worker's figures by family and of the run's final model, from one process."""
    names = [name for name in FAMILIES if name != "qwen3_vl"]  # that one is the session's engine
    folders = [*map(tiny_folders, names), run / "final"]
    names.append("final")
    worker = ROOT / "tests/integration/worker_engine.py"
    done = subprocess.run(
        [sys.executable, str(worker), *map(str, folders)],
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
        "final",
    }


def test_a_hybrid_s_cache_is_as_planned(found, tiny_folders):
    """Blocks of keys and values that are as large as a state, and as many as fit."""
    config = tiny_config(tiny_folders("qwen3_5"))
    shape = model_shape(module_on_meta(config)[0])
    plan = engine_memory(shape, config, cpu(1), workload(config, shape, 1))
    block, blocks = found["qwen3_5"]["cache"]
    assert plan.block == block
    assert plan.kv_cache / (block * plan.kv_per_token) == pytest.approx(blocks, rel=0.02)


def test_a_hybrid_trains_within_its_parity_bound(run):
    text = (run / "stdout").read_text()
    assert text.count("rollouts are sampled in bfloat16, from weights that are trained in") == 1
    assert "parity_warn" not in text
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [row for row in lines if row["phase"] == "train"]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert 1e-4 < row["mismatch/mean_abs"] < BOUNDS["bfloat16"][0]
        assert 1e-5 < row["receipt/mean_abs"] < BOUNDS["bfloat16"][0]
    summary = json.loads((run / "summary.json").read_text())
    assert {"before", "after"} <= summary.keys()
