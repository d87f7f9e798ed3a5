"""Builders that the tests share: pictures, samples, rows and configurations of the tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from command_server import CommandServer
from PIL import Image

from sapo_vl import config as configs
from sapo_vl.config import Config
from sapo_vl.schema import IMAGE_MARK, Prompt, Rollout, Sample

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

DUAL_CLIP = f"{ROOT / 'tests' / 'plugins' / 'dual_clip.py'}:loss"
"""An objective by path, with the option `loss.delta`."""

LOG_ADVANTAGE = f"{ROOT / 'tests' / 'plugins' / 'log_advantage.py'}:loss"
"""An objective by path whose loss is not finite where an advantage is -1 or less."""

SIZES: tuple[tuple[tuple[int, int], ...], ...] = (
    (),
    ((64, 64),),
    ((64, 64), (96, 32)),
    ((33, 100), (128, 128), (64, 48), (20, 20)),
)
"""Width and height of the pictures of four prompts: with 0, 1, 2 and 4 of them."""


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """Return a PNG of random noise."""
    pixels = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3))
    out = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def make_sample(
    sizes: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    text: str = "What is the sum?",
    name: str | None = None,
) -> Sample:
    """Return a sample with noise pictures of the given sizes in front of its text."""
    return Sample(
        id=name or f"noise-{seed}-{len(sizes)}",
        dataset="noise",
        task="sum",
        problem=IMAGE_MARK * len(sizes) + text,
        images=tuple(picture(w, h, seed + i) for i, (w, h) in enumerate(sizes)),
        answer="7",
        solution="<think>3 and 4</think>\\boxed{7}",
    )


def make_samples(seed: int = 0) -> list[Sample]:
    """Return a sample with 0, 1, 2 and 4 pictures each."""
    return [make_sample(sizes, seed + 10 * i) for i, sizes in enumerate(SIZES)]


def tiny_config(folder: Path, *overrides: str) -> Config:
    """Return the configuration all tests of the tiny model start from."""
    return configs.load(
        None,
        [
            f"model.path={folder}",
            f"run.dir={folder.parent}",
            "model.dtype=float32",
            "model.gradient_checkpointing=none",
            "data.min_pixels=256",
            "data.max_pixels=16384",
            "data.max_prompt_tokens=384",
            "rollout.max_new_tokens=16",
            "generator.max_model_len=512",
            "generator.max_images=4",
            "generator.kv_cache_mb=64",
            "learner.micro_batch_tokens=1024",
            "learner.lr=1e-3",
            "learner.zero_stage=0",
            *overrides,
        ],
    )


def make_rollouts(prompts: Sequence[Prompt], seed: int = 0, responses: int = 3) -> list[Rollout]:
    """Return responses of 1 to 9 random tokens to each prompt, with advantages of both signs."""
    random = np.random.default_rng(seed)
    rollouts = []
    for prompt in prompts:
        for _ in range(responses):
            ids = random.integers(10, 250, random.integers(1, 10)).tolist()
            rollouts.append(
                Rollout(
                    prompt,
                    ids,
                    advantage=float(random.normal()),
                    generator_logprobs=random.normal(-4, 0.5, len(ids)).astype(np.float32),
                    old_logprobs=random.normal(-5, 0.5, len(ids)).astype(np.float32),
                )
            )
    return rollouts


def bare_prompt(length: int = 3, images: int = 0, name: str = "bare") -> Prompt:
    """Return a prompt of `length` tokens that no model rendered, with blank images."""
    import torch

    return Prompt(
        sample=make_sample([(8, 8)] * images, name=name),
        token_ids=[0] * length,
        expanded_ids=[0] * length,
        images=[Image.new("RGB", (8, 8)) for _ in range(images)],
        pixel_values=None,
        grid_thw=None,
        position_ids=torch.arange(length).expand(3, -1),
        next_position=length,
    )


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a process started by a test: this checkout's code first."""
    env = {k: v for k, v in os.environ.items() if not _of_ranks(k)}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), *filter(None, [env.get("PYTHONPATH")])]
    )
    env["COLUMNS"] = "200"
    return env | changes


def _of_ranks(name: str) -> bool:
    return name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def cli(
    *arguments: str | Path, timeout: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `sapo-vl ARGUMENTS` in a process of its own.

    Without `env` it is a fork of one that has imported what commands need (command_server.py).
    """
    if not env:
        return _command_server().run([*map(str, arguments)], environment(), timeout)
    return subprocess.run(
        [sys.executable, "-m", "sapo_vl.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(**env),
    )


@cache
def _command_server() -> CommandServer:
    return CommandServer(environment())


def torchrun(
    ranks: int, *arguments: str | Path, timeout: float = 240, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script (or `--module NAME`) on so many ranks; a deadlock ends in a timeout.

    The ranks meet in files, as in train_vl.sh.
    """
    with tempfile.TemporaryDirectory() as meeting:
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
        command += ["--rdzv-conf", "store_type=file", "--rdzv-endpoint", f"{meeting}/rendezvous"]
        command += ["--local-addr", "127.0.0.1", "--nproc_per_node", str(ranks)]
        variables = {
            "SAPO_STORE": f"{meeting}/store",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        return subprocess.run(
            [*command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment(**(variables | env)),
        )


def one_line(*arguments: str | Path, **env: str) -> str:
    """Run a command that must refuse a user's mistake; return its one line."""
    done = cli(*arguments, **env)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("sapo-vl")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def distance(a: dict, b: dict) -> float:
    """Return |a - b| / |b| over all tensors of two dictionaries together."""
    assert a.keys() == b.keys()
    gap = sum(float((a[n].double() - b[n].double()).square().sum()) for n in a)
    return (gap / sum(float(v.double().square().sum()) for v in b.values())) ** 0.5
