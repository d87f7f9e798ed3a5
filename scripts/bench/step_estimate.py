"""An 8B step on 8 H100, estimated phase by phase, for the learner as it was and as it is.

Prints the table of docs/performance.md.

    PYTHONPATH=.:scripts .venv/bin/python -m bench.step_estimate

Nothing here was measured on eight GPUs. Operations, bytes and utilisations are the planner's
(sapo_vl/training/plan/seconds.py), two of them fitted to one H100; what the earlier code did
besides is below, with its reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sapo_vl.config import CONFIGS, load
from sapo_vl.learner.logprobs import CHUNK_LOGITS
from sapo_vl.training.plan.fit import Plan, make_plan
from sapo_vl.training.plan.hardware import gpus
from sapo_vl.training.plan.learner import weight_bytes
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.seconds import (
    CPU_ADAMW,
    PASSES,
    STEP_BYTES,
    THREADS,
    head_seconds,
    scoring_seconds,
)
from sapo_vl.training.plan.shape import model_shape

STEP = (
    "rollout.prompts=64",
    "rollout.group_size=8",
    "rollout.max_new_tokens=2048",
    "generator.max_model_len=4096",
)
EARLIER = ("learner.zero_stage=3", "learner.micro_batch_tokens=16384")

EARLIER_LOGITS = 2**24
"""Logits of a chunk on any device: 110 tokens at a vocabulary of 151,936."""

PICTURE = 0.237 + 0.1
"""Seconds to open and resize a picture of 1,024 tokens and to cut it into patches, twice: measured
on a CPU, in the main thread, by the renderer and by vLLM's own processor."""

LOGPROB = 7.4e-6
FLAT_LOGPROB = 0.16e-6
"""Seconds per token to read vLLM's log-probs from a dictionary a token, and from a flat list."""


@dataclass(frozen=True)
class Row:
    """A phase: its seconds before and after, and how they follow."""

    phase: str
    before: float
    after: float
    arithmetic: str


def estimate() -> list[Row]:
    """Return the phases of a step."""
    earlier, now = _plan(*EARLIER), _plan()
    shape, gpu, work = now.shape, now.hardware.gpu, now.work
    b = weight_bytes(now.config)
    tokens = EARLIER_LOGITS // shape.vocabulary
    chunks = math.ceil(earlier.work.scored / tokens)
    others = (now.hardware.ranks - 1) / now.hardware.ranks
    gathers = 2 * chunks * b * shape.head * others / gpu.link
    later = 1 - 1 / work.mini_batches
    head = head_seconds(shape, gpu, b, earlier.work, tokens)
    # Without the fused head each chunk's logits were computed a second time in the backward pass.
    head += scoring_seconds(shape, gpu, b, earlier.work, tokens)
    scoring = later * (
        scoring_seconds(shape, gpu, b, earlier.work, tokens) - _current_scoring(earlier)
    )
    a, z = earlier.seconds, now.seconds
    pictures = work.prompts * PICTURE
    return [
        Row("rollout: prompts and decoding", a.prefill + a.decode, z.prefill + z.decode,
            f"{work.responses} sequences a GPU, {work.response_tokens:,} tokens each"),
        Row("rollout: pictures", pictures, 0.0,
            f"{work.prompts} a GPU x {PICTURE * 1e3:.0f} ms; now while the learner works"),
        Row("rollout: log-probs to arrays", LOGPROB * work.scored, FLAT_LOGPROB * work.scored,
            f"{work.scored:,} tokens x {LOGPROB * 1e6:.1f} and {FLAT_LOGPROB * 1e6:.2f} us"),
        Row("old log-probs", a.old_logprobs + scoring, z.old_logprobs,
            "3 of 4 mini-batches, without a gradient"),
        Row("update: products of the layers", a.products, z.products,
            f"{earlier.work.tokens:,} and {work.tokens:,} tokens a GPU, forward, backward, again"),
        Row("update: elementwise", a.elementwise, z.elementwise,
            f"{PASSES} times what the layers save, each pass"),
        Row("update: head", head, z.head,
            f"chunks of {tokens:,} and {_rows(now):,} tokens"),
        Row("update: gathers of the head", gathers, 0.0,
            f"2 x {chunks:,} chunks x {b * shape.head / 1e9:.1f} GB, ZeRO-3; now none"),
        Row("update: other collectives", a.collectives, z.collectives,
            f"{earlier.work.rows} and {work.rows} micro-batches; weights and gradients, "
            "gradients only"),
        Row("update: optimizer", a.optimizer, z.optimizer,
            f"{STEP_BYTES} bytes a parameter, 4 steps"),
        Row("weight sync, sleep, waking", a.sync, z.sync, f"{shape.tensors} tensors"),
    ]  # fmt: skip


def _rows(plan: Plan) -> int:
    return CHUNK_LOGITS["cuda"] // plan.shape.vocabulary


def _current_scoring(plan: Plan) -> float:
    b = weight_bytes(plan.config)
    return scoring_seconds(plan.shape, plan.hardware.gpu, b, plan.work, _rows(plan))


def _plan(*keys: str) -> Plan:
    config = load(CONFIGS / "train" / "qwen3_vl_8b.yaml", [*STEP, *keys])
    return make_plan(config, model_shape(module_on_meta(config, ask_hub=False)[0]), gpus(80, 8))


def offloaded_optimizer() -> tuple[float, float]:
    """Return seconds of a step that AdamW takes on the CPU at 4B on one GPU, 1 and 8 threads."""
    config = load(CONFIGS / "train" / "qwen3_vl_4b.yaml", [])
    trained = model_shape(module_on_meta(config, ask_hub=False)[0]).trained
    one = config.algorithm.num_mini_batches * trained * CPU_ADAMW
    return one, one / THREADS


def markdown() -> str:
    """Return the table with its sum and rates."""
    rows, now, earlier = estimate(), _plan(), _plan(*EARLIER)
    lines = ["| phase | before, s | now, s | arithmetic |", "|---|---|---|---|"]
    lines += [f"| {r.phase} | {r.before:.1f} | {r.after:.1f} | {r.arithmetic} |" for r in rows]
    before, after = sum(r.before for r in rows), sum(r.after for r in rows)
    lines.append(f"| whole step | {before:.0f} | {after:.0f} | |")
    updates = [
        sum(getattr(r, side) for r in rows if r.phase.startswith("update"))
        for side in ("before", "after")
    ]
    useful = [p.seconds.useful / p.hardware.gpu.flops for p in (earlier, now)]
    lines.append(
        f"| MFU of the update | {useful[0] / updates[0]:.0%} | {useful[1] / updates[1]:.0%} | "
        f"{now.seconds.useful / 1e15:.1f} PFLOP a GPU without recomputation |"
    )
    rate = now.work.scored
    lines.append(
        f"| response tokens/s and GPU | {rate / before:,.0f} | {rate / after:,.0f} | "
        f"{rate:,} tokens |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
    one, several = offloaded_optimizer()
    several_text = f"{several:.0f} s on {THREADS}"
    print(f"\n4B on one GPU, AdamW on the CPU: {one:.0f} s a step on one thread, {several_text}")
