"""What the tests of `sapo-vl doctor` share: making its checks and reading their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.training.doctor.examine import CHECKS, Check, examine
from sapo_vl.training.doctor.findings import Diagnosis, State
from sapo_vl.training.doctor.subject import Subject

ACCEPTS = "def anything(sample, response):\n    return 1.0\n"

Table = dict[str, list[Diagnosis]]
"""Rows by check."""


def with_needs(*names: str) -> list[Check]:
    """Return these checks and those they need, in order; by default all that load no weights."""
    wanted = set(names) or {check.name for check in CHECKS if not check.needs_weights}
    for check in reversed(CHECKS):
        if check.name in wanted:
            wanted |= {*check.needs}
    return [check for check in CHECKS if check.name in wanted]


def diagnose(
    config: Config, scratch: Path, *names: str, generator=None, checks: Sequence[Check] = ()
) -> Table:
    """Make the checks `names` and those they need; return their rows."""
    subject = Subject(config, scratch, generator=generator)
    try:
        rows = examine(subject, checks or with_needs(*names))
    finally:
        subject.close()
    table: Table = {}
    for row in rows:
        table.setdefault(row.check, []).append(row)
    return table


def states(table: Table) -> dict[str, str]:
    """Return the worst state of each check."""
    order = [State.FINE, State.SKIPPED, State.DOUBTFUL, State.WRONG]
    return {
        name: max((row.finding.state for row in rows), key=order.index).value
        for name, rows in table.items()
    }


def told(table: Table, check: str) -> str:
    """Return all that a check's rows say."""
    return " ".join(f"{row.finding.found} {row.finding.cure}" for row in table[check])


def faults(table: Table) -> dict[str, str]:
    """Return the checks that are not fine, with their states."""
    return {name: state for name, state in states(table).items() if state != State.FINE}
