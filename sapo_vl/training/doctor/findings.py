"""What a check found: its state, the figures, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """How one thing is. Only WRONG makes the command fail."""

    FINE = "fine"
    DOUBTFUL = "doubtful"  # a run would start; only the user can know whether it is meant
    WRONG = "wrong"  # a run would stop, or train on something else than is meant
    SKIPPED = "not checked"


class Finding(NamedTuple):
    """One row of the table."""

    state: State
    found: str  # what was found, with its figures
    cure: str = ""  # what to do; empty where `found` says it, or nothing is to be done


class Diagnosis(NamedTuple):
    """A finding with the check that it is from."""

    check: str
    finding: Finding


def fine(found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(State.FINE, found)


def doubtful(found: str, cure: str) -> Finding:
    """Return a finding that the user should look at."""
    return Finding(State.DOUBTFUL, found, cure)


def wrong(found: str, cure: str = "") -> Finding:
    """Return a finding that has to be mended."""
    return Finding(State.WRONG, found, cure)


def skipped(reason: str, cure: str = "") -> Finding:
    """Return what stands for a check that could not be made."""
    return Finding(State.SKIPPED, reason, cure)


def count_by_state(diagnoses: Sequence[Diagnosis]) -> dict[State, int]:
    """Return how many findings there are of each state, all four states included."""
    states = [diagnosis.finding.state for diagnosis in diagnoses]
    return {state: states.count(state) for state in State}
