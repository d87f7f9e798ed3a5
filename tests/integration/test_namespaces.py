"""A learner and its servers on four machines: scripts/slurm.sh in network namespaces.

Two machines learn, a rank each, started by DeepSpeed's launcher; two run a vLLM server. They have
addresses of their own and no shared memory, so that ranks meet over the bridge, and weights go to
the servers by gloo. Slurm's programs are stand-ins (tests/slurm_programs.py); the scripts, the
launcher, the ranks and the servers are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT, environment
from namespaces import Machines, Unavailable
from safetensors.torch import load_file
from slurm_programs import slurm_environment

pytestmark = pytest.mark.slow

STEPS = 3
OVERRIDES = (
    "rewards=[{fn: random_control}]",
    "data.synthetic_train=60",
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
def machines():
    try:
        made = Machines(4)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


def words(tiny_folder: Path, run: Path) -> list[str]:
    config = ROOT / "configs" / "train" / "smoke.yaml"
    return ["--config", str(config), f"model.path={tiny_folder}", f"run.dir={run}", *OVERRIDES]


def weights(run: Path):
    (file,) = (run / "final").glob("*.safetensors")
    return load_file(file)


def job(machines: Machines, folder: Path, arguments: list[str], learners: int, nodes: int) -> Path:
    """Run scripts/slurm.sh on the first `nodes` machines; return the job's folder."""
    slurm = slurm_environment(
        folder / "slurm", machines.addresses[:nodes], submitted=ROOT, prefix=machines.prefix
    )
    variables = slurm | {
        "SLURM_JOB_ID": f"test-{os.getpid()}",
        "LEARNER_NODES": str(learners),
        "SAPO_VENV": sys.prefix,
        "SAPO_EXTRA": "cpu" if "+cpu" in metadata.version("torch") else "gpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [*machines.on(0), "bash", str(ROOT / "scripts" / "slurm.sh"), *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    out = ROOT / "runs" / f"slurm-test-{os.getpid()}"
    logs = "".join(log.read_text()[-3000:] for log in sorted(out.glob("server-*.log")))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:] + logs
    return out


def test_four_machines_give_the_weights_of_one(machines, tiny_folder, tmp_path):
    one = subprocess.run(
        [sys.executable, "-m", "sapo_vl.system.launch", "2", "train"]
        + words(tiny_folder, tmp_path / "one"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert one.returncode == 0, one.stdout[-3000:] + one.stderr[-6000:]
    nodes = int(os.environ.get("NODES", "4"))
    out = job(machines, tmp_path, words(tiny_folder, tmp_path / "four"), 2, nodes)
    print(out)
    ours, expected = weights(tmp_path / "four"), weights(tmp_path / "one")
    assert ours.keys() == expected.keys()
    assert [name for name in ours if not ours[name].equal(expected[name])] == []
    start = weights_of_folder = load_file(tiny_folder / "model.safetensors")
    assert any(not ours[n].equal(start[n]) for n in weights_of_folder)
    json.dumps({})
