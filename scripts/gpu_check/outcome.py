"""One check's outcome, and the table of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found."""

    what: str
    result: str  # OK, FAILED or SKIPPED
    note: str = ""  # why it failed or was skipped
    figures: dict[str, float] = field(default_factory=dict)  # "name, unit" -> value


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the parts run."""

    device: str  # cpu or cuda; on a CPU shapes are small
    gpus: int
    folder: Path  # for models and runs; "model" below it is the four-layer model
    modules: frozenset[str]  # which of the optional packages are installed


def at_most(what: str, bound: float, value: float, **figures: float) -> Outcome:
    """Return the outcome of a check that `value`, an error, is at most `bound`."""
    shown = {"error": value} | {name.replace("_", " "): v for name, v in figures.items()}
    if value <= bound:
        return Outcome(what, OK, f"bound {bound:g}", shown)
    return Outcome(what, FAILED, f"error {value:.3g} is above {bound:g}", shown)


def last_error(output: str) -> str:
    """Return the last line of a program's output that names an exception, else its last line."""
    lines = [line.strip() for line in output.strip().splitlines() if line.strip()] or ["no output"]
    named = [line for line in lines if re.match(r"(\[rank\d+\]: )?[\w.]*(Error|Exception)\b", line)]
    own = [line for line in named if "ChildFailedError" not in line]  # torchrun's says nothing
    return (own or named or lines)[-1]


def line(part: str, outcome: Outcome) -> str:
    """Return an outcome as a row of the table."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in outcome.figures.items())
    result = f"{outcome.result}: {outcome.note}" if outcome.note else outcome.result
    return f"| {part} | {outcome.what} | {result} | {figures} |"


def table(outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """Return all outcomes, each with its part's name, as a Markdown table."""
    head = ["| part | what | result | figures |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(line(part, outcome) for part, outcome in outcomes)])
