"""vLLM with a mixture of experts agrees with the learner at the start and after weight updates."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import ROOT, environment

pytestmark = pytest.mark.slow


def test_experts_agree_before_and_after_updates(tiny_moe_folder):
    # a process of its own: the session's engine is the dense model's
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/integration/worker_moe.py"), str(tiny_moe_folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    gaps = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(gaps) == 3
    assert max(gaps) <= 1e-4, gaps
