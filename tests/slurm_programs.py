"""Stand-ins for Slurm's programs: `scontrol show hostnames` and `srun`.

    environment = slurm_environment(folder, ["10.0.0.1", "10.0.0.2"], prefix=["ip", "netns", ..])

srun starts a command once for each node and task of it, each with the variables that Slurm sets,
passes SIGTERM on, and writes its --output files. `prefix`, in which {node} is the node's name,
stands in front of each command: what brings it to its machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def slurm_environment(
    folder: Path, nodes: Sequence[str], *, submitted: Path, prefix: Sequence[str] = ()
) -> dict[str, str]:
    """Return the variables of a batch script on these nodes, with the stand-ins on its PATH."""
    from launchers import make_program

    make_program(folder / "scontrol", "#!/bin/sh\nprintf '%s\\n' $SLURM_JOB_NODELIST\n")
    make_program(folder / "srun", f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": " ".join(nodes),
        "SLURM_SUBMIT_DIR": str(submitted),
        "SRUN_PREFIX": json.dumps([*prefix]),
        "SRUN_CALLS": str(folder / "srun.jsonl"),
    }


def srun(argv: Sequence[str]) -> int:
    """Run a step; return its largest exit code."""
    with open(os.environ["SRUN_CALLS"], "a", encoding="utf-8") as calls:
        calls.write(json.dumps(list(argv)) + "\n")
    given = dict(word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word)
    command = argv[next(i for i, word in enumerate(argv) if not word.startswith("--")) :]
    nodes, each = given["nodelist"].split(","), int(given["ntasks-per-node"])
    assert int(given["nodes"]) == len(nodes)
    assert int(given["ntasks"]) == len(nodes) * each
    tasks = [_start(command, nodes, i, j, given) for i in range(len(nodes)) for j in range(each)]

    def stop(*_: object) -> None:
        for task in tasks:
            if task.poll() is None:
                task.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    while None in (codes := [task.poll() for task in tasks]):
        if given["kill-on-bad-exit"] == "1" and any(codes):
            stop()
        time.sleep(0.05)
    return max(abs(code) for code in codes if code is not None)


def _start(
    command: Sequence[str], nodes: list[str], i: int, local: int, given: dict[str, str]
) -> subprocess.Popen[bytes]:
    prefix = [word.format(node=nodes[i]) for word in json.loads(os.environ["SRUN_PREFIX"])]
    task = i * int(given["ntasks-per-node"]) + local
    variables = {
        "SLURMD_NODENAME": nodes[i],
        "SLURM_NODEID": str(i),
        "SLURM_LOCALID": str(local),
        "SLURM_PROCID": str(task),
    }
    name = given.get("output", "").replace("%n", str(i)).replace("%t", str(task))
    with open(name or os.devnull, "ab") as out:
        return subprocess.Popen(
            [*prefix, *command],
            env=os.environ | variables,
            stdout=out if name else None,
            stderr=subprocess.STDOUT if name else None,
        )


if __name__ == "__main__":
    sys.exit(srun(sys.argv[1:]))
