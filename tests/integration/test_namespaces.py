"""A learner and its servers on four machines: scripts/slurm.sh in network namespaces.

Two machines learn, a rank each, started by DeepSpeed's launcher; two run a vLLM server. They have
addresses of their own and no shared memory, so that ranks meet over the bridge, and weights go to
the servers by gloo. Slurm's programs are stand-ins (tests/slurm_programs.py); the scripts, the
launcher, the ranks and the servers are the real ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import ROOT, environment
from namespaces import Machines, Unavailable
from safetensors.torch import load_file
from slurm_programs import slurm_environment

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS = 3
OVERRIDES = (
    "rewards=[{fn: random}]",
    "data.synthetic_train=40",
    "data.synthetic_test=8",
    "sft.steps=0",
    f"rollout.steps={STEPS}",
    "rollout.prompts=8",
    "rollout.group_size=4",
    "rollout.max_new_tokens=12",
    "rollout.ahead=1",
    "algorithm.num_mini_batches=2",
    "learner.zero_stage=2",
    "generator.max_model_len=512",
    "generator.kv_cache_mb=64",
    "evaluation.problems=4",
    "evaluation.samples=1",
    "checkpoint.every=100",
)


@pytest.fixture
def machines() -> Iterator[Machines]:
    try:
        made = Machines(4)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


@pytest.fixture
def job_folder() -> Iterator[Path]:
    """The folder that scripts/slurm.sh writes for this test's job."""
    folder = ROOT / "runs" / f"slurm-test-{os.getpid()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def arguments(tiny_folder: Path, run: Path) -> list[str]:
    config = ROOT / "configs" / "train" / "smoke.yaml"
    return ["--config", str(config), f"model.path={tiny_folder}", f"run.dir={run}", *OVERRIDES]


def run_logged(command: list[str], log: Path, seconds: float, **variables: str) -> None:
    """Run a command to its end, its output in a file. The end of it is shown where it fails."""
    with log.open("wb") as out:
        done = subprocess.run(
            command,
            env=environment(**variables),
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    assert done.returncode == 0, log.read_text(errors="replace")[-6000:]


def test_four_machines_give_the_weights_of_one(machines, job_folder, tiny_folder, tmp_path):
    slurm = slurm_environment(
        tmp_path / "slurm", machines.addresses, submitted=ROOT, prefix=machines.prefix
    )
    variables = slurm | {
        "SLURM_JOB_ID": job_folder.name.removeprefix("slurm-"),
        "LEARNER_NODES": "2",
        "SERVER_SECONDS": "360",
        "SAPO_VENV": sys.prefix,
        "SAPO_EXTRA": "cpu" if "+cpu" in metadata.version("torch") else "gpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    script = str(ROOT / "scripts" / "slurm.sh")
    words = arguments(tiny_folder, tmp_path / "four")
    run_logged([*machines.on(0), "bash", script, *words], tmp_path / "four.log", 500, **variables)
    logs = sorted(log.name for log in job_folder.glob("server-*"))
    assert logs == ["server-0-0.log", "server-1-1.log"]

    words = arguments(tiny_folder, tmp_path / "one")
    launch = [sys.executable, "-m", "sapo_vl.system.launch", "2", "train"]
    run_logged([*launch, *words], tmp_path / "one.log", 300)

    files = sorted(file.name for file in (tmp_path / "one" / "rollouts").iterdir())
    assert sorted(file.name for file in (tmp_path / "four" / "rollouts").iterdir()) == files
    assert len(files) == STEPS * 2  # of each rank
    for name in files:
        ours, expected = (
            pq.read_table(tmp_path / run / "rollouts" / name).to_pylist() for run in ("four", "one")
        )
        sampled_by = max(0, int(name[len("step_") :][:6]) - 2)  # rollout.ahead=1, steps from 1
        for row, other in zip(ours, expected, strict=True):
            assert row["token_ids"] == other["token_ids"]
            assert row["generator_logprobs"] == other["generator_logprobs"]
            assert row["versions"] == [[sampled_by, 0, len(row["token_ids"])]]
    ours, expected = (load_file(weights_file(tmp_path / run / "final")) for run in ("four", "one"))
    start = load_file(weights_file(tiny_folder))
    assert ours.keys() == expected.keys() == start.keys()
    assert [name for name in ours if not ours[name].equal(expected[name])] == []
    assert sum(not ours[name].equal(start[name]) for name in ours) > len(ours) / 2  # it learned


def weights_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file
