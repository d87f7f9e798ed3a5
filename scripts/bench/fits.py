"""Which GPUs hold the shipped configurations, and with which settings: docs/memory.md's tables.

    PYTHONPATH=.:scripts .venv/bin/python -m bench.fits [lora]

Estimates of the planner (sapo_vl/training/plan), nothing was measured on a GPU.
"""

from __future__ import annotations

import sys

from sapo_vl.config import CONFIGS, load
from sapo_vl.training.plan.fit import Plan, changes_that_fit, make_plan, with_values
from sapo_vl.training.plan.hardware import GIB, GPUS, gpus
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.shape import model_shape

COUNTS = {
    "qwen3_vl_2b": (1, 8),
    "qwen3_vl_4b": (1, 8),
    "qwen3_vl_8b": (1, 8),
    "qwen3_vl_30b_a3b": (8,),
    "qwen3_5_4b": (1, 8),
    "qwen3_5_9b": (1, 8),
    "qwen3_5_35b_a3b": (8,),
}
"""Numbers of GPUs by configuration."""

TITLE = (
    "| config | GPUs | besides the config's settings | peak GiB of a card | host GiB | "
    "sequences in the KV cache |"
)

LADDER = ("qwen3_vl_4b_lora_24gb", "qwen3_vl_8b_lora_24gb")
LADDER_GPUS = (24, 48, 80)
SAME_WORK = {
    "rollout.prompts": 16,
    "learner.micro_batch_tokens": 2816,
    "generator.max_num_seqs": 64,
}
"""What every row of the ladder is planned with, so that the seconds can be compared."""

LADDER_TITLE = (
    "| model | card | learner's base while sampling | `gpu_memory_utilization` | GiB sampling | "
    "GiB in the update | host GiB | sequences in the KV cache | s/step |"
)


def ladder() -> str:
    """Return one row for each model with adapters, card and place of the learner's frozen base.

    The engine gets as much of the card as fits, in hundredths.
    """
    lines = [LADDER_TITLE, "|---|---|---|---|---|---|---|---|---|"]
    for name in LADDER:
        config = with_values(load(CONFIGS / "train" / f"{name}.yaml", []), SAME_WORK)
        shape = model_shape(module_on_meta(config, ask_hub=False)[0])
        for size in LADDER_GPUS:
            for away in (True, False):
                plans = (
                    make_plan(
                        with_values(
                            config,
                            {
                                "learner.offload_while_sampling": away,
                                "generator.gpu_memory_utilization": percent / 100,
                            },
                        ),
                        shape,
                        gpus(size, 1),
                    )
                    for percent in range(95, 9, -1)
                )
                plan = next((plan for plan in plans if not plan.problems()), None)
                place = "host memory" if away else "card"
                model = "Qwen3-VL-" + name.split("_")[2].upper()
                lines.append(f"| {model} | {size} GB | {place} | {_ladder_cells(plan)} |")
    return "\n".join(lines)


def _ladder_cells(plan: Plan | None) -> str:
    if plan is None:
        return "does not fit | | | | |"
    phases = {phase.name: phase.total / GIB for phase in plan.phases}
    update = max(size for name, size in phases.items() if name.startswith(("update", "optimizer")))
    return (
        f"{plan.config.generator.gpu_memory_utilization:g} | {phases['sampling']:.1f} | "
        f"{update:.1f} | {plan.host.peak / GIB:.0f} | {plan.engine.sequences:.0f} | "
        f"{plan.seconds.total:.0f}"
    )


def markdown() -> str:
    """Return one row for each configuration, number and size of GPUs."""
    lines = [TITLE, "|---|---|---|---|---|---|"]
    for name, counts in COUNTS.items():
        config = load(CONFIGS / "train" / f"{name}.yaml", [])
        shape = model_shape(module_on_meta(config, ask_hub=False)[0])
        for count in counts:
            for size in GPUS:
                plan = make_plan(config, shape, gpus(size, count))
                lines.append(f"| {name} | {count} x {size} GB | {_cells(plan)} |")
    return "\n".join(lines)


def _cells(plan: Plan) -> str:
    settings, fitting = "-", plan
    if plan.problems():
        changes = changes_that_fit(plan)
        if not changes:
            return "does not fit | | |"
        fitting = changes[0].plan
        settings = " ".join(word.partition(".")[2] for word in changes[0].text.split())
    return (
        f"{settings} | {fitting.peak.total / GIB:.0f} | {fitting.host.peak / GIB:.0f} | "
        f"{fitting.engine.sequences:.0f}"
    )


if __name__ == "__main__":
    print(ladder() if sys.argv[1:] == ["lora"] else markdown())
