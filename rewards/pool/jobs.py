"""What travels between the pool and its workers. Light, so that both sides start fast."""

from __future__ import annotations

from dataclasses import dataclass

from sapo_vl.rewards.parsing.exact_decider import Tolerance
from sapo_vl.schema import Sample


@dataclass(frozen=True, slots=True)
class Question:
    """Are these two cleaned texts equal? Hashable: it is the key of the cache."""

    gold: str
    answer: str
    tolerance: Tolerance


@dataclass(frozen=True, slots=True)
class EqualJob:
    """Ask a worker a Question."""

    question: Question


@dataclass(frozen=True, slots=True)
class UserJob:
    """Ask a worker to call a user's verifier."""

    path: str  # of the Python file
    function: str  # its name there
    sample: Sample
    response: str


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Ask a worker to import a user's verifier and to find the function."""

    path: str
    function: str


Job = EqualJob | UserJob | LoadJob


@dataclass(frozen=True, slots=True)
class Reply:
    """How a job ended."""

    status: str  # done, timeout, crash, memory, limit, error
    reason: str = ""
    seconds: float = 0.0  # in the worker; for a timeout the deadline
    equal: bool | None = None  # of an EqualJob that is done
    outcome: str = ""  # of a UserJob that is done: an Outcome's value
    score: float = 0.0
    extracted: str | None = None
