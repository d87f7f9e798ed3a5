"""How fast the rollout viewer opens a large folder: makes one, then times it in a fresh process.

    python scripts/bench/viewer_opening.py FOLDER [--gigabytes 1]

FOLDER/rollouts gets steps of 64 groups of 8 responses of about 1,000 tokens with all values by
token, and a picture of about 60 kB by group, until it has that size. Timed are the footers of all
files, the first page, a page of another step, and a group's tokens, each after the files have left
the page cache (where the system lets go of them).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from sapo_vl.schema import Outcome, Prompt, Reward, Rollout, RolloutGroup, Sample, Verdict
from sapo_vl.training.rollouts import write_parquet

GROUPS, RESPONSES, TOKENS = 64, 8, 1000

TIMED = """
import sys, time
start = time.perf_counter()
from pathlib import Path
from sapo_vl.pages.viewer.files import RolloutFiles
from sapo_vl.pages.viewer.render import Opened
from sapo_vl.pages.viewer.server import Pages
from sapo_vl.pages.viewer.token_text import TokenText
def lap(what):
    global start
    now = time.perf_counter()
    print(f"{what}: {now - start:.2f} s")
    start = now
folder = Path(sys.argv[1])
lap("imports")
files = RolloutFiles(folder)
opened = Opened((files,), (TokenText(folder),))
lap(f"footers of {sum(map(len, files.steps.values()))} files")
pages = Pages(opened, 16)
pages.step()
lap("first page, 16 groups")
step = next(iter(files.steps))
pages.step(step=step, show="mixed", sort="log_ratio")
lap("filtered and sorted page of another step")
files.load(files.groups(step)[-1], tokens=True)
lap("a group's values by token")
files.steps_of("p-0")
lap("steps of a problem")
"""


def main() -> None:
    """Make the folder, unless it is there, and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    arguments = parser.parse_args()
    rollouts = arguments.folder / "rollouts"
    if not rollouts.exists():
        make(rollouts, arguments.gigabytes * 1e9)
    files = sorted(rollouts.iterdir())
    print(f"{len(files)} files, {sum(f.stat().st_size for f in files) / 1e9:.2f} GB")
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", TIMED, str(arguments.folder)], check=True)
    print(f"all: {time.perf_counter() - begun:.2f} s")


def make(folder: Path, size: float) -> None:
    """Write files of made-up steps until they have `size` bytes."""
    rng = np.random.default_rng(0)
    pictures = [_picture(rng) for _ in range(GROUPS)]
    step, written = 0, 0
    while written < size:
        step += 1
        groups = [_group(rng, step, i, picture) for i, picture in enumerate(pictures)]
        path = folder / f"step_{step:06d}.parquet"
        write_parquet(path, groups)
        written += path.stat().st_size


def _picture(rng: np.random.Generator) -> bytes:
    file = BytesIO()
    Image.fromarray(rng.integers(0, 256, (140, 140, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def _group(rng: np.random.Generator, step: int, number: int, picture: bytes) -> RolloutGroup:
    sample = Sample(
        f"p-{number}", "made", f"task {number % 6}", f"<image>What is {step}?", (picture,), "8"
    )
    prompt = Prompt(sample, [1], [1], [], None, None, None, 1)  # type: ignore[arg-type]
    return RolloutGroup(prompt, [_rollout(rng, prompt, i) for i in range(RESPONSES)])


def _rollout(rng: np.random.Generator, prompt: Prompt, number: int) -> Rollout:
    count = int(rng.integers(TOKENS // 2, TOKENS * 3 // 2))
    right = bool(rng.integers(2))
    mu = -rng.exponential(0.4, count).astype(np.float32)
    ratios = rng.normal(0, 0.02, count).astype(np.float32)
    verdict = Verdict(Outcome.CORRECT if right else Outcome.WRONG, float(right), "made up")
    words = " ".join(f"word{i}" for i in rng.integers(0, 5000, count))
    return Rollout(
        prompt,
        rng.integers(0, 150_000, count).tolist(),
        words,
        "stop",
        mu,
        Reward(float(right), right, True, {"boxed": verdict}),
        1.0 if number % 2 else -1.0,
        mu + rng.normal(0, 1e-3, count).astype(np.float32),
        gate_weights=(1 / np.cosh(ratios / 2) ** 2).astype(np.float32),
        log_ratios=ratios,
        entropies=(-mu * 0.8).astype(np.float32),
    )


if __name__ == "__main__":
    main()
