"""Runs for tests of the viewer: rollout files with hand-made values, a byte-level tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from helpers import bare_prompt
from PIL import Image

from sapo_vl.schema import Outcome, Reward, Rollout, RolloutGroup, Verdict
from sapo_vl.training.rollouts import write_parquet

TASKS = ("angle", "bars")


def png(colour: str = "red", size: tuple[int, int] = (12, 8)) -> bytes:
    """Return a picture of one colour."""
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@cache
def byte_tokenizer():
    """Return a tokenizer with one token per byte, and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    return tokenizer


def reply(
    text: str,
    right: bool = True,
    *,
    valid: bool = True,
    finish: str = "stop",
    logprob: float = -1.0,
    reason: str = "by hand",
    log_ratio: float | None = None,
) -> dict:
    """Return what `make_group` needs of a response; `log_ratio` is its last token's."""
    return locals()


def make_group(
    name: str, replies: Sequence[dict], *, problem="What is it?", answer="8", task="bars", images=()
) -> RolloutGroup:
    """Return a group whose advantages are +1 for right and -1 for wrong, 0 where all agree."""
    prompt = bare_prompt(name=name)
    prompt.sample = replace(
        prompt.sample, id=name, task=task, problem=problem, answer=answer, images=tuple(images)
    )
    mixed = len({r["right"] for r in replies if r["valid"]}) == 2
    return RolloutGroup(prompt, [_rollout(prompt, one, mixed) for one in replies])


def _rollout(prompt, one: dict, mixed: bool) -> Rollout:
    right, valid = one["right"], one["valid"]
    outcome = Outcome.NO_VERDICT if not valid else Outcome.CORRECT if right else Outcome.WRONG
    ids = [*byte_tokenizer().encode(one["text"]).ids, 256]
    count = len(ids)
    rollout = Rollout(
        prompt,
        ids,
        one["text"],
        one["finish"],
        np.full(count, one["logprob"], np.float32),
        Reward(
            float(right), right, valid, {"boxed": Verdict(outcome, float(right), one["reason"])}
        ),
        (1.0 if right else -1.0) if mixed and valid else 0.0,
        np.full(count, one["logprob"] + 0.25, np.float32),
    )
    if one["log_ratio"] is not None:
        rollout.log_ratios = np.zeros(count, np.float32)
        rollout.log_ratios[-1] = one["log_ratio"]
        rollout.gate_weights = np.linspace(0, 1, count, dtype=np.float32)
        rollout.entropies = np.full(count, 0.5, np.float32)
    return rollout


def some_groups(step: int, rank: int = 0, count: int = 3) -> list[RolloutGroup]:
    """Return groups of step and rank; every step has the problems s0, s1, .. of rank 0."""
    groups = []
    for i in range(count):
        replies = [
            reply(f"<think>{step} + {i}</think>\\boxed{{{8 + j}}}", j < i, log_ratio=0.1 * (i + j))
            for j in range(3)
        ]
        name = f"{'s' if rank == 0 else 'r'}{i}"
        problem = f"<image>What is {i} plus {step}?"
        groups.append(make_group(name, replies, problem=problem, task=TASKS[i % 2], images=[png()]))
    return groups


def write_run(
    folder: Path, steps: dict[int, Sequence[Sequence[RolloutGroup]]], *, tokenizer: bool = True
) -> Path:
    """Write a run with each step's groups by rank, metrics and a tokenizer; return its folder."""
    for step, ranks in steps.items():
        for rank, groups in enumerate(ranks):
            suffix = f"-rank{rank}" if len(ranks) > 1 else ""
            write_parquet(folder / "rollouts" / f"step_{step:06d}{suffix}.parquet", groups)
    rows = [
        {"phase": "train", "step": step, "accuracy": 0.1 * step, "reward/mean": 0.05 + 0.1 * step}
        for step in range(1, max(steps) + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if tokenizer:
        (folder / "final").mkdir()
        byte_tokenizer().save(str(folder / "final" / "tokenizer.json"))
    return folder


def write_old(path: Path, rows: Sequence[dict]) -> None:
    """Write a file as releases did that had no `group` and no update's values by token."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    new = ("group", "tokens", "mean_logprob", "largest_mismatch", "largest_log_ratio")
    new += ("gate_weights", "log_ratios", "entropies")
    kept = [{k: v for k, v in row.items() if k not in new} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(kept), path)
