"""vLLM agrees with the learner for the other families, at the start and after weight updates."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import ROOT, environment

FAMILIES = ("qwen3_vl_moe", "qwen2_5_vl")

pytestmark = pytest.mark.slow


def test_logprobs_agree_before_and_after_updates(tiny_folders):
    # a process of its own: the session's engine is the dense Qwen3-VL's
    worker = ROOT / "tests/integration/worker_engine.py"
    done = subprocess.run(
        [sys.executable, str(worker), *map(str, map(tiny_folders, FAMILIES))],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    gaps = json.loads(done.stdout.strip().splitlines()[-1])
    assert [len(of_family) for of_family in gaps] == [2, 2]
    assert max(max(of_family) for of_family in gaps) <= 1e-4, gaps
