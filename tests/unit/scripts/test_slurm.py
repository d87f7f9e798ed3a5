"""scripts/slurm.sh with stand-ins for Slurm's programs and a python that records its arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launchers import STUB, make_program
from slurm_programs import slurm_environment

NODES = ["node1", "node2", "node3", "node4"]

CURL = """#!/usr/bin/env bash
# A server answers once all have been started: SERVING calls.
((${CURL:-0} == 0)) || exit "$CURL"
until (($(grep -c "cli serve" "$CALLS") >= ${SERVING:-1})); do sleep 0.05; done
"""

RECORDER = """#!/usr/bin/env bash
echo "${CUDA_VISIBLE_DEVICES:-}|${#SAPO_SERVER_KEY}|$*" >> "$CALLS"
[[ "$*" != *launcher* ]] || echo "${NO_PROXY:-}" > "$CALLS.proxy"
case "$*" in
*"cli serve"*)
  trap 'echo "server ended" >> "$CALLS"; exit 0' TERM
  while true; do sleep 0.05; done ;;
*--dry-run*) ;;
*launcher.runner*) exit "${CODE:-0}" ;;
esac
"""


@pytest.fixture
def job(checkout, tmp_path):
    """Return a function that runs the batch script and returns its process and what was called."""
    make_program(checkout / "venv" / "bin" / "python", RECORDER)
    programs = tmp_path / "slurm"
    environment = slurm_environment(programs, NODES, submitted=checkout)
    make_program(programs / "curl", CURL)
    environment |= {"CALLS": str(tmp_path / "calls"), "SLURM_GPUS_ON_NODE": "8"}
    (tmp_path / "calls").touch()

    def run(*arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        done = subprocess.run(
            ["bash", checkout / "scripts" / "slurm.sh", *arguments],
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        calls = tmp_path / "calls"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # servers end after the job
            lines = calls.read_text().splitlines()
            if lines.count("server ended") == sum("cli serve" in line for line in lines):
                break
            time.sleep(0.05)
        return done, lines

    run.environment = environment
    return run


def test_two_nodes_learn_and_two_sample(job, checkout, tmp_path):
    done, calls = job(
        "--config", "c", "a.b=1", LEARNER_NODES="2", GPUS_PER_SERVER="4", SERVING="4", no_proxy=""
    )
    assert done.returncode == 0, done.stderr
    hostfile = checkout / "runs" / "slurm-17" / "hostfile"
    assert hostfile.read_text() == "node1 slots=8\nnode2 slots=8\n"
    serving = sorted(call for call in calls if "cli serve" in call)
    words = "--config c a.b=1 generator.tensor_parallel=4"
    assert serving == sorted(
        2  # nodes, each with two servers of four GPUs
        * [
            f"0,1,2,3|64|-m sapo_vl.cli serve --host 0.0.0.0 --port 8000 {words}",
            f"4,5,6,7|64|-m sapo_vl.cli serve --host 0.0.0.0 --port 8001 {words}",
        ]
    )
    servers = ",".join(f"http://node{n}:{port}" for n in (3, 4) for port in (8000, 8001))
    learner = f"{words} generator.backend=server generator.servers=[{servers}]"
    start = "|64|-m deepspeed.launcher.runner --hostfile {} --no_local_rank --master_addr node1"
    runners = sorted(call for call in calls if "launcher.runner" in call)
    assert runners == [
        f"{start.format(hostfile)} --master_port 29500 --no_ssh --node_rank {node} "
        f"--module sapo_vl.cli train {learner}"
        for node in (0, 1)
    ]
    assert calls.count("server ended") == 4
    steps = [json.loads(line) for line in (tmp_path / "slurm" / "srun.jsonl").open()]
    assert [step[0] for step in steps] == ["--nodelist=node3,node4", "--nodelist=node1,node2"]
    assert (tmp_path / "calls.proxy").read_text() == "node3,node4\n"
    assert "SAPO_SERVER_KEY" not in json.dumps(steps)  # expanded in tasks, by name nowhere


def test_the_key_is_on_no_command_line(job, tmp_path):
    _, calls = job(LEARNER_NODES="3", SERVING="8", SAPO_SERVER_KEY="a-secret-of-mine")
    assert all("|16|" in call for call in calls if call != "server ended")
    assert "secret" not in (tmp_path / "slurm" / "srun.jsonl").read_text() + "".join(calls)


def test_without_servers_the_learner_samples(job, checkout):
    done, calls = job("a.b=1", LEARNER_NODES="4", SLURM_GPUS_ON_NODE="", RANKS_PER_NODE="2")
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if "cli serve" in call]
    runners = [call for call in calls if "launcher.runner" in call]
    assert len(runners) == 4
    assert all(call.endswith("sapo_vl.cli train a.b=1") for call in runners)
    assert "node4 slots=2" in (checkout / "runs" / "slurm-17" / "hostfile").read_text()


def test_a_requeued_job_resumes(job, tmp_path):
    words = ("a.b=1", f"run.dir={tmp_path / 'run'}")
    again = {"SLURM_RESTART_COUNT": "1", "LEARNER_NODES": "4"}
    _, calls = job(*words, **again)  # the job had ended before its run began
    assert not any("--resume" in call for call in calls)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "calls").write_text("")
    _, calls = job(*words, **again | {"LEARNER_NODES": "3", "SERVERS_PER_NODE": "1"})
    assert sum("cli serve" in call for call in calls) == 1
    assert all("--resume" not in call for call in calls if "cli serve" in call)
    runners = [call for call in calls if "launcher.runner" in call]
    assert runners
    assert all(call.endswith("--resume") for call in runners)


def test_the_learners_code_is_the_jobs(job):
    done, calls = job(CODE="2", SERVERS_PER_NODE="1", SERVING="3")
    assert done.returncode == 2
    assert calls.count("server ended") == 3


def test_servers_that_do_not_come_up_end_the_job(job):
    done, calls = job(CURL="7", SERVER_SECONDS="1")
    assert done.returncode == 1
    assert "http://node2:8000 does not answer" in done.stderr.splitlines()[-1]
    assert not [call for call in calls if "launcher" in call]


@pytest.mark.parametrize("learners", ["0", "5"])
def test_more_learners_than_nodes_are_refused(job, learners):
    done, calls = job(LEARNER_NODES=learners)
    assert (done.returncode, calls) == (2, [])
    assert f"LEARNER_NODES={learners} of 4 nodes" in done.stderr


def test_another_folder_is_refused(job, tmp_path):
    done, _ = job(SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "submit the job from there" in done.stderr


def test_sigterm_reaches_the_learner_and_then_the_servers_end(job, checkout, tmp_path):
    make_program(
        checkout / "venv" / "bin" / "python",
        STUB.replace("STAY:-", 'STAY:-$(case "$*" in *--dry-run*) ;; *) echo 1 ;; esac)'),
    )
    environment = job.environment | {"LEARNER_NODES": "3", "SERVERS_PER_NODE": "1"}
    process = subprocess.Popen(["bash", checkout / "scripts" / "slurm.sh"], env=environment)
    calls = Path(environment["CALLS"])
    deadline = time.monotonic() + 20
    while calls.read_text().count("runner") < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    while calls.read_text().count("terminated") < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert calls.read_text().count("terminated") == 4  # three learners and a server
    assert os.environ.get("SLURM_JOB_ID") is None
