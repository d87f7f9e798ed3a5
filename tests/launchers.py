"""Runs the shell scripts in a copy of the checkout, with a python that records its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from helpers import ROOT

SCRIPTS = ROOT / "scripts"

STUB = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
if [[ -n "${STAY:-}" ]]; then
  trap 'echo terminated >> "$CALLS"; exit 143' TERM
  while true; do sleep 0.05; done
fi
case "$*" in *wrong.key*) exit 2 ;; esac
"""


def make_checkout(folder: Path) -> Path:
    """Make `folder` a checkout whose setup.sh names an environment whose python is the stub."""
    (folder / "scripts").mkdir(parents=True)
    for name in ("env", "train_vl", "eval_vl", "prepare_data", "serve_vl", "slurm"):
        shutil.copy(SCRIPTS / f"{name}.sh", folder / "scripts")
    make_program(folder / "venv" / "bin" / "python", STUB)
    (folder / "scripts" / "setup.sh").write_text(f"echo '{folder / 'venv'}'\n")
    return folder


def make_program(path: Path, text: str) -> Path:
    """Write an executable script; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def launch(checkout: Path, script: str, *arguments: str, **variables: str) -> list[str]:
    """Return the stub's calls, or the exit code in a list where it isn't 0."""
    calls = checkout / "calls"
    calls.write_text("")
    run = subprocess.run(
        ["bash", checkout / "scripts" / script, *arguments],
        env={"PATH": os.environ["PATH"]} | {"CALLS": str(calls)} | variables,
        cwd="/",
        check=False,
    )
    called = calls.read_text().splitlines()
    return called if run.returncode == 0 else [*called, f"exit {run.returncode}"]
