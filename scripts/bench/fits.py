"""Which GPUs hold the shipped configurations, and with which settings: the table of docs/memory.md.

    PYTHONPATH=.:scripts .venv/bin/python -m bench.fits

Estimates of the planner (sapo_vl/training/plan), nothing was measured on a GPU.
"""

from __future__ import annotations

from sapo_vl.config import CONFIGS, load
from sapo_vl.training.plan.fit import Plan, changes_that_fit, make_plan
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
    print(markdown())
