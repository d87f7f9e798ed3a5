"""The built wheel, installed into an empty environment and used from another folder.

The environment sees this one's packages through a .pth file, so nothing is downloaded. A path in a
.pth file does not process the .pth files found there: the editable install stays invisible.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, environment

pytestmark = pytest.mark.slow
PACKED = ("pyproject.toml", "README.md", "LICENSE", "sapo_vl", "data", "rewards", "configs")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this checkout on its path; return its stdout."""
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, since setuptools leaves a build folder behind."""
    pytest.importorskip("setuptools", minversion="77")
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        if (ROOT / name).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, copy)
    return out / run(sys.executable, "-c", BUILD, out, cwd=copy).splitlines()[-1]


@pytest.fixture(scope="module")
def venv(wheel, tmp_path_factory) -> Path:
    """An environment with nothing but the wheel; the packages it needs are found by path."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=wheel.parent)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    lines = list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    if (Path(lines[0]) / "torchvision_cpu_hook.pth").exists():  # see scripts/environment.py
        lines.append("import torchvision_cpu_hook")
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run(python, "-c", purelib, cwd=wheel.parent).strip())
    (site_packages / "dependencies.pth").write_text("\n".join(lines) + "\n")
    return folder


def test_what_is_packed(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {path.relative_to(ROOT).as_posix() for path in _sources()}
    assert {name for name in names if name.endswith(".py")} == code
    yaml = {f"sapo_vl/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/*/*.yaml")}
    texts = {
        f"sapo_vl/{path.relative_to(ROOT / 'sapo_vl')}"
        for pattern in ("*.txt", "*.jinja", "*.css", "*.js")
        for folder in ("", "data", "rewards")
        for path in (ROOT / "sapo_vl" / folder).rglob(pattern)
    }
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    assert data == yaml | texts | {"sapo_vl/py.typed"}
    assert "sapo_vl/rewards/verifiers/judge.txt" in data


def _sources() -> list[Path]:
    """Return the package's files as they lie below sapo_vl/, the links followed."""
    found = []
    for folder, _, files in os.walk(ROOT / "sapo_vl", followlinks=True):
        found += [Path(folder) / name for name in files if name.endswith(".py")]
    return found


def test_the_package_is_the_installed_one(wheel, venv, tmp_path):
    code = (
        "import sapo_vl, sapo_vl.data, sapo_vl.rewards\n"
        "print(sapo_vl.__version__, sapo_vl.__file__, sapo_vl.data.__file__)"
    )
    version, *files = run(venv / "bin" / "python", "-c", code, cwd=tmp_path).split()
    assert version == wheel.name.split("-")[1]
    assert all(Path(file).is_relative_to(venv) for file in files), files


def test_the_plan_of_the_main_job(venv, tmp_path):
    plan = run(venv / "bin" / "sapo-vl", "train", "--dry-run", "run.dir=run", cwd=tmp_path)
    assert "tiny" in plan
    assert list(tmp_path.iterdir()) == []


def test_verify(venv, tmp_path):
    pairs = [
        {"id": "right", "answer": "1/2", "response": "so \\boxed{0.5}"},
        {"id": "wrong", "answer": "1/2", "response": "so \\boxed{2}"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    command = (venv / "bin" / "sapo-vl", "verify", "--in", "pairs.jsonl", "--out", "verdicts.jsonl")
    totals = json.loads(run(*command, cwd=tmp_path).splitlines()[-1])
    assert (totals["correct"], totals["wrong"]) == (1, 1)
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [verdict["score"] for verdict in verdicts] == [1.0, 0.0]


def test_the_config_reference(venv, tmp_path):
    assert "run.dir = runs/main" in run(venv / "bin" / "sapo-vl", "config", "run", cwd=tmp_path)
