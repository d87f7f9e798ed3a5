"""Steps with rollout.ahead=0 and 1 on one local server, in runs that take turns.

    PYTHONPATH=scripts python -m bench.ahead MODEL [--rounds 3] [--steps 22] [KEY=VALUE ..]

MODEL is a warmed-up model's folder, such as RUN/warmup/final of a main job. A machine that others
share changes its speed within minutes, so each round runs both, and the ratio is taken within a
round. Seconds are medians over a run's steps after the first five (see run_steps); KEY=VALUE are
settings of both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.run_steps import row_of

ROOT = Path(__file__).parents[2]
SERVER = ("generator.backend=server", "generator.local_servers=1")


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    settings = [
        f"model.path={options.model.resolve()}",
        "sft.steps=0",
        "evaluation.problems=8",
        f"rollout.steps={options.steps}",
        *SERVER,
        *options.settings,
    ]
    names = ("rollout", "old_logprobs", "update", "sync", "step", "sampling")
    print("| round | K | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 2), flush=True)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, options.rounds + 1):
            seconds = []
            for ahead in (0, 1) if number % 2 else (1, 0):
                row = _run(Path(folder) / f"{number}-{ahead}", ahead, settings)
                cells = " | ".join(row[name] for name in names)
                print(f"| {number} | {ahead} | {cells} |", flush=True)
                seconds.append((ahead, float(row["step"])))
            both = dict(seconds)
            ratios.append(both[0] / both[1])
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nK = 1 is {statistics.median(ratios):.2f} times as fast (median of {told})")


def _run(folder: Path, ahead: int, settings: list[str]) -> dict[str, str]:
    """Train and return the run's row. Raises CalledProcessError, after the log's path."""
    log = folder.with_suffix(".log")
    command = ["bash", "scripts/train_vl.sh", f"run.dir={folder}", f"rollout.ahead={ahead}"]
    with log.open("w") as out:
        code = subprocess.run(
            [*command, *settings],
            cwd=ROOT,
            env=os.environ | {"SAPO_RANKS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}\n{log.read_text()[-2000:]}")
    return row_of(folder)


if __name__ == "__main__":
    main()
