"""Where a run's time went: its phases, and the parts of a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sapo_vl.pages.report.change import duration
from sapo_vl.pages.report.load import LoadedRun
from sapo_vl.runs.plots import is_number

PHASES = {
    "warmup": "supervised warm-up",
    "start": "loading weights, starting the engine",
    "evaluation": "held-out evaluation",
    "sapo": "training steps",
}
"""Phases of seconds.json in words; others are shown by their own names."""

PARTS = {
    "rollout": "rollouts: waiting for responses and verdicts",
    "old_logprobs": "log-probs before the updates",
    "update": "updates of the weights",
    "sync": "weights to the sampler",
}
"""Parts of a step that follow each other. seconds/sampling and render run beside or inside them."""

REST = "checkpoints, metrics and all else"


@dataclass(frozen=True)
class Bar:
    """A part of a whole."""

    label: str
    share: float  # of the whole, in [0, 1]
    text: str  # its time and share


@dataclass(frozen=True)
class Bars:
    """A whole, divided."""

    title: str
    bars: Sequence[Bar]


def bars(run: LoadedRun) -> list[Bars]:
    """Return the run by phases and its training steps by parts; nothing where none is recorded."""
    found = []
    phases = {PHASES.get(name, name): value for name, value in run.seconds.items()}
    if phases:
        found.append(_bars("The run", phases))
    rows = run.of_phase("train")
    parts = {
        label: sum(float(row[key]) for row in rows if is_number(row.get(key)))
        for key, label in ((f"seconds/{name}", label) for name, label in PARTS.items())
    }
    if any(parts.values()):
        rest = run.seconds.get("sapo", 0.0) - sum(parts.values())
        # steps that a killed run repeated count in seconds.json only
        found.append(_bars("Its training steps", parts | ({REST: rest} if rest > 0 else {})))
    return found


def _bars(title: str, seconds: Mapping[str, float]) -> Bars:
    total = sum(seconds.values())
    whole = total or 1.0
    return Bars(
        f"{title}: {duration(total)}",
        [
            Bar(label, value / whole, f"{duration(value)}, {100 * value / whole:.0f} %")
            for label, value in seconds.items()
            if value > 0
        ],
    )
