"""Runs that are killed at an exact moment, and what of them must not change."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from helpers import ROOT, environment

SMOKE = ROOT / "configs" / "train" / "smoke.yaml"
SABOTEUR = ROOT / "tests" / "integration" / "saboteur.py"


def sabotaged(*arguments: str | Path, strike: str = "") -> subprocess.CompletedProcess[str]:
    """Run `sapo-vl ARGUMENTS`; `strike` is the saboteur's moment."""
    return subprocess.run(
        [sys.executable, str(SABOTEUR), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=environment(SAPO_TEST_SIGNAL=strike),
    )


def finished(done: subprocess.CompletedProcess[str]) -> None:
    """Assert that a command ended well."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "Traceback" not in done.stderr, done.stderr[-6000:]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(run: Path, phase: str) -> list[dict]:
    """Return a run's metrics of a phase."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["phase"] == phase]


def exact(row: dict) -> dict:
    """Return what must be the same in a run that was killed: all but times."""
    timed = ("seconds", "tokens_per_s")
    return {key: value for key, value in row.items() if not key.startswith(timed)}
